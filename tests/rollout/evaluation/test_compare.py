"""rollout.compare: two results item by item; what differs in more than the model is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import ConfigError
from common.statistics import gap_interval, mcnemar_exact
from rollout.compare import main
from rollout.evaluation.compare import Counts, compare, compare_sets
from rollout.evaluation.stored_result import StoredItem, StoredSet, read_result
from tests.rollout.evaluation.stored_results import items, make_result, write_result

A = "++++++--??!+"
B = "+++++-++?++!"


def test_items_are_paired_and_counted_where_both_have_a_reply(tmp_path: Path) -> None:
    found = compare(make_result(tmp_path / "a", A), make_result(tmp_path / "b", B)).sets["vstar"]
    assert found.whole == Counts(both=5, only_a=1, only_b=3, neither=1)
    assert (found.whole.of, found.whole.right_a, found.whole.right_b) == (10, 6, 8)
    assert found.whole.p == mcnemar_exact(1, 3) == 10 / 16
    assert found.whole.difference == gap_interval(5, 3, 1, 1)
    assert found.whole.difference.value == 0.2
    assert found.moves == {
        ("right", "right"): 5,
        ("right", "wrong"): 1,
        ("wrong", "right"): 2,
        ("undecided", "undecided"): 1,
        ("undecided", "right"): 1,
        ("failed", "right"): 1,
        ("right", "failed"): 1,
    }
    assert [(pair.a.id, pair.change) for pair in found.changed] == [
        ("q5", "lost"),
        ("q6", "gained"),
        ("q7", "gained"),
        ("q9", "gained"),
    ]


def test_categories_are_compared_and_names_are_none(tmp_path: Path) -> None:
    found = compare(make_result(tmp_path / "a", A), make_result(tmp_path / "b", B)).sets["vstar"]
    assert found.parts == {
        "category = cross": Counts(both=3, only_a=0, only_b=1, neither=1),
        "category = single": Counts(both=2, only_a=1, only_b=2, neither=0),
    }


SIGNS = st.text("+-?!", min_size=0, max_size=40)


@given(SIGNS, SIGNS)
def test_counts_are_those_of_the_items(a: str, b: str) -> None:
    one, other = (
        StoredSet(
            figures={},
            headline="",
            failed=0,
            cut=0,
            undecided=0,
            items=tuple(StoredItem(**item) for item in items(signs)),
        )
        for signs in (a, b)
    )
    found = compare_sets("s", one, other)
    both = [pair for pair in zip(a, b, strict=False) if "!" not in pair]
    assert (
        found.whole.of == len(both) == found.whole.both + found.whole.neither + len(found.changed)
    )
    assert found.whole.right_a == sum(pair[0] == "+" for pair in both)
    assert found.whole.right_b == sum(pair[1] == "+" for pair in both)
    assert sum(found.moves.values()) + found.only_in_a == len(a)
    assert sum(found.moves.values()) + found.only_in_b == len(b)
    for name in {name.partition(" = ")[0] for name in found.parts}:
        parts = [counts for key, counts in found.parts.items() if key.startswith(f"{name} = ")]
        assert sum(counts.of for counts in parts) == found.whole.of


@pytest.mark.parametrize(
    ("other", "told", "despite"),
    [
        ({"max_tokens": 512}, "max_tokens is 4096 in A and 512 in B", "max_tokens"),
        ({"thinking": None}, "thinking is False in A and None in B", "thinking"),
        ({"judge": {"model": "gpt-oss"}}, "judge.model is None in A and 'gpt-oss' in B", "judge"),
        ({"source": {"limit": 100}}, "sets.vstar.limit is 0 in A and 100 in B", "limit"),
        ({"source": {"revision": "b"}}, "sets.vstar.revision is 'd9ae62c' in A", "sets.vstar"),
        ({"view": "crop"}, "view is 'full' in A and 'crop' in B", "view"),
        ({"new": 1}, "new is None in A and 1 in B", "new"),
    ],
)
def test_results_that_differ_in_more_than_the_model_are_refused(
    tmp_path: Path, other: dict[str, Any], told: str, despite: str
) -> None:
    a, b = make_result(tmp_path / "a", A), make_result(tmp_path / "b", B, **other)
    with pytest.raises(ConfigError, match=r"in more than the model: .*Fix: .* by --despite") as e:
        compare(a, b)
    assert told in str(e.value)
    for first, second in ((a, b), (b, a)):
        (difference,) = compare(first, second, [despite]).despite
        assert difference.key in str(e.value)


def test_every_difference_is_listed_and_each_must_be_allowed(tmp_path: Path) -> None:
    a = make_result(tmp_path / "a", A)
    b = make_result(tmp_path / "b", B, max_tokens=512, labels="corrected")
    with pytest.raises(ConfigError, match="--despite labels,max_tokens"):
        compare(a, b)
    with pytest.raises(ConfigError, match=r"--despite labels$"):
        compare(a, b, ["max_tokens"])
    assert len(compare(a, b, ["max_tokens", "labels"]).despite) == 2


def test_a_key_that_does_not_exist_is_no_permission(tmp_path: Path) -> None:
    a = make_result(tmp_path / "a", A)
    with pytest.raises(ConfigError, match=r"--despite max_token: no such key\. Fix: choose from"):
        compare(a, a, ["max_token"])


def test_sets_that_one_alone_has_are_left_out_and_told(tmp_path: Path) -> None:
    a = read_result(write_result(tmp_path / "a", {"vstar": items(A), "pope": items("+")}))
    b = read_result(write_result(tmp_path / "b", {"mmvp": items("+"), "vstar": items(B)}))
    found = compare(a, b)
    assert list(found.sets) == ["vstar"] and found.left_out == ("mmvp", "pope")
    other = read_result(write_result(tmp_path / "c", {"mmvp": items("+")}))
    with pytest.raises(ConfigError, match=r"A has the sets vstar, pope, B mmvp: none in common"):
        compare(a, other)


def test_items_that_one_alone_has_are_told(tmp_path: Path) -> None:
    a, b = make_result(tmp_path / "a", A), make_result(tmp_path / "b", "++")
    found = compare(a, b).sets["vstar"]
    assert (found.whole.of, found.only_in_a, found.only_in_b) == (2, 10, 0)


# ---- the command ---------------------------------------------------------------------------------
def test_the_command_prints_and_writes_the_comparison(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = write_result(tmp_path / "a", {"vstar": items(A)})
    b = write_result(tmp_path / "b", {"vstar": items(B)}, model="mine", max_tokens=512)
    main([str(a), str(b), "--out", str(tmp_path / "new/out"), "--despite", "max_tokens"])
    printed = capsys.readouterr().out
    assert printed == (tmp_path / "new/out/compare.md").read_text()
    assert "| all | 10 | 60.00 | 80.00 | +20.00 (-18.70 to +52.11) | 3 | 1 | 0.625 |" in printed
    assert "Compared although max_tokens is 4096 in A and 512 in B." in printed
    assert "Failed in A or in B, and left out: 2." in printed
    assert "| right | 5 | 1 | 0 | 1 |" in printed
    assert "| q5 | lost | What is it, 5? | B | The answer is B. | The answer is C. |" in printed
    written = json.loads((tmp_path / "new/out/compare.json").read_text())
    found = written["sets"]["vstar"]["all"]
    assert (found["both"], found["only_a"], found["only_b"], found["neither"]) == (5, 1, 3, 1)
    assert (found["value"], found["p"]) == (0.2, 0.625)
    assert (found["low"], found["high"]) == pytest.approx((-0.18696, 0.52109), abs=1e-5)
    assert written["sets"]["vstar"]["changed"][0] == {"id": "q5", "change": "lost"}
    assert written["sets"]["vstar"]["figures"] == {"accuracy": {"a": 7 / 11, "b": 9 / 11}}
    assert written["despite"] == [{"key": "max_tokens", "a": 4096, "b": 512}]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "result.json: No such file or directory. Fix: name the folder of a finished"),
        ("{", "the file: Invalid JSON"),
        ('{"format": 2}', "format: Input should be 1. Fix: measure again"),
        ('{"format": 1, "model": "m", "view": "full", "identity": {}}', "sets: Field required"),
    ],
)
def test_the_command_refuses_what_is_no_result(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None, told: str
) -> None:
    if content is not None:
        (tmp_path / "result.json").write_text(content)
    with pytest.raises(SystemExit) as end:
        main([str(tmp_path), str(tmp_path)])
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith(f"cannot compare: {tmp_path}/result.json: ")
    with pytest.raises(ConfigError) as error:
        read_result(tmp_path)
    assert told in str(error.value)


def test_the_command_does_not_abbreviate(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as end:
        main([str(tmp_path), str(tmp_path), "--desp", "x"])
    assert end.value.code == 2
