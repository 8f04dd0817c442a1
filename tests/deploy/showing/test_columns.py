"""Rows of text that line up."""

from deploy.showing.columns import aligned


def test_columns_are_as_wide_as_their_widest_cell_and_lines_end_without_spaces() -> None:
    assert aligned([("a", "long"), ("longer", "b")]) == ["a       long", "longer  b"]


def test_numbers_may_end_at_the_same_place() -> None:
    assert aligned([("a", "1", "x"), ("b", "100", "")], to_the_right=(1,)) == [
        "a    1  x",
        "b  100",
    ]
