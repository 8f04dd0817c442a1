"""A dataset as one HTML sheet: sampled rows, distributions over all rows, and what looks wrong.

command         writes the sheet
survey          a pass over all rows: a few numbers a row
remarks         what looks wrong, with the rows and the fix
evidence        the teacher's view that the sheet shows
token_counts    how many tokens a prompt has, in both views
sheet           puts it on a page
"""

from common.look.command import main

__all__ = ["main"]
