"""The inspector.

scores      what student and teacher hold likely at each token
pictures    pictures as student and teacher saw them
"""
