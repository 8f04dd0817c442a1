"""The gap between the two views, from what became of each item."""

import pytest

from common.statistics import gap_interval
from rollout.evaluation.gap import gap_document, gap_of, told


def outcomes(words: str) -> list[dict]:
    kinds = {"r": "right", "w": "wrong", "u": "undecided", "f": "failed"}
    return [{"id": f"q{n}", "outcome": kinds[letter]} for n, letter in enumerate(words)]


def test_gap_pairs_items_and_leaves_out_what_one_view_has_no_answer_to() -> None:
    gap = gap_of(outcomes("rrrrwuf"), outcomes("rwuwrwr"))
    assert (gap.pairs, gap.left_out) == (6, 1)
    assert (gap.crop[0], gap.full[0]) == (4 / 6, 2 / 6)
    assert gap.gap == gap_interval(1, 3, 1, 1)
    assert gap.p == 0.625  # of 4 items that differ, 1 or fewer, both sides


@pytest.mark.parametrize(
    ("crop", "full", "words"),
    [
        ("r" * 30, "w" * 30, "There is something to teach here: the crop is worth +100.0 points"),
        ("w" * 30, "r" * 30, "There is nothing to teach here"),
        ("rw" * 5, "wr" * 5, "Not decided by 10 items"),
        ("fff", "rrr", "Nothing can be said"),
    ],
)
def test_the_sentence_follows_the_interval(crop: str, full: str, words: str) -> None:
    assert gap_of(outcomes(crop), outcomes(full)).sentence.startswith(words)


def test_the_document_names_both_identities_and_the_terminal_shows_it() -> None:
    crop, full = (
        {
            "model": "m",
            "identity": {"view": view},
            "sets": {"zoombench": {"items": outcomes(words)}},
        }
        for view, words in (("crop", "rrrr"), ("full", "rrww"))
    )
    document = gap_document(crop, full)
    assert document["identity"] == {"crop": {"view": "crop"}, "full": {"view": "full"}}
    assert document["sets"]["zoombench"]["gap"][0] == 0.5
    lines = told(document).splitlines()
    assert lines[1].split()[:4] == ["zoombench", "100.00", "50.00", "50.00"]
    assert lines[-1].startswith("zoombench: Not decided by 4 items")
