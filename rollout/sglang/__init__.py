"""How a real SGLang server is started: in its own environment, which has none of our packages.

`command` is imported here; `launch.py` and `cpu/` are run by SGLang's Python and import nothing of
ours.
"""
