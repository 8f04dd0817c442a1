"""What a response says, and whether it is the reference answer. Rules alone; no torch.

answers           does a response give the reference answer?
answer_text       what a response states: its text made uniform
answer_numbers    numbers and units in it
option_letters    which option's letter it chooses
"""
