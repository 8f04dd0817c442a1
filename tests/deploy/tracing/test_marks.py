from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from deploy.tracing.marks import Undone, mark_files, read_marks


def test_what_is_torn_or_makes_no_sense_is_left_out(tmp_path: Path):
    path = tmp_path / "learner-0.jsonl"
    path.write_bytes(
        b'{"name": "a", "begin_s": 1.0, "end_s": 2.0, "step": 3}\n'
        b'{"name": "b", "beg\n'
        b"\n"
        b"17\n"
        b"\xff\xfe\n"
        b'{"name": "backwards", "begin_s": 2.0, "end_s": 1.0}\n'
        b'{"name": "endless", "begin_s": NaN, "end_s": Infinity}\n'
        b'{"name": "c", "begin_s": 4, "end_s": 4}\n'
        b'{"name": "torn", "begin_s": 5.0, "end'
    )
    found = list(read_marks(path))
    assert [mark.name for mark in found] == ["a", "c"]
    assert found[0].step == 3 and found[1].step is None


def test_files_are_in_the_order_of_their_numbers(tmp_path: Path):
    (tmp_path / "spans").mkdir()
    for name in ("rollout-10", "rollout-2", "learner-0", "broker"):
        (tmp_path / "spans" / f"{name}.jsonl").touch()
    assert list(mark_files(tmp_path)) == ["broker", "learner-0", "rollout-2", "rollout-10"]
    assert mark_files(tmp_path / "old") == {}


@given(
    st.lists(st.tuples(st.integers(0, 20), st.integers(0, 5)), max_size=6),
    st.integers(0, 6),
    st.integers(0, 21),
)
def test_a_step_is_undone_if_a_later_life_began_before_it(lives, step, at):
    lives = sorted((float(when), first) for when, first in lives)
    expected = any(when > at and first < step for when, first in lives)
    assert Undone(lives).has(step, float(at)) == expected
