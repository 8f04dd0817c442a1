"""The views. Each module here that defines VIEW is one; no other code names it.

full            the picture as it is
crop            the evidence, as published
random_crop     a part of the evidence's size from a random place, a control
red_box         with a red rectangle round the evidence
degraded        made worse (S2VOPD)
box_text        the place of the evidence in words (Where-OPD)
answer_hint     the reference answer in words (OPSD)
"""
