"""Answers that are options' letters, however a set writes them."""

from common.scoring.option_letters import option_of
from rollout.evaluation.rows import Row


def letter_of(row: Row, field: str) -> str:
    """The capital of "B", "(b)", "B." or "B. red". Raises DataError."""
    option = option_of(row.text(field).strip())
    if option is None:
        raise row.error(field, "names no option", "write the letter of the right option")
    return option[0]
