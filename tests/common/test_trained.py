"""The format of RUN/trained: what is written is read, up to where a file is torn."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.trained import TOKEN_FIGURES, TrainedStream, record_batch, trained_files
from tests.trained_rows import token_figures, trained_group, write_trained

LENGTHS = st.lists(st.integers(1, 9), min_size=1, max_size=4)


@given(st.lists(LENGTHS, min_size=1, max_size=3), st.integers(0, 5))
def test_a_step_s_rows_hold_its_tokens(groups, version) -> None:
    made = [trained_group(f"0/{i}", f"s{i}", own, version, i) for i, own in enumerate(groups)]
    figures_FT = token_figures(made, 3)
    rows = record_batch(7, made, figures_FT).to_pylist()
    trajectories = [(group, t) for group in made for t in group.trajectories]
    start = 0
    for row, (group, t) in zip(rows, trajectories, strict=True):
        assert (row["step"], row["group_id"], row["sample_id"]) == (7, group.group_id, group[1])
        assert (row["index"], row["finish_reason"]) == (t.index, t.finish_reason.value)
        assert row["token_ids"] == t.response_token_ids.tolist()
        assert row["rollout_logprob"] == t.rollout_logprobs.tolist()
        assert row["span_versions"] == [span.version for span in t.version_spans]
        assert row["span_ends"] == [span.end for span in t.version_spans]
        end = start + t.num_tokens
        for name, values in zip(TOKEN_FIGURES, figures_FT, strict=True):
            assert row[name] == values[start:end].tolist()
        start = end


def test_a_file_that_is_cut_anywhere_has_its_whole_steps(tmp_path: Path) -> None:
    steps = []
    for step in (1, 2, 3):
        groups = [trained_group(f"0/{step}", "a", [4, 2], step - 1, step)]
        steps.append((step, groups, token_figures(groups, step)))
    path = write_trained(tmp_path, steps, from_step=0)
    stream = TrainedStream(path)
    ends = [end for _, end, _ in stream.batches()]
    content = path.read_bytes()
    assert ends[-1] == len(content)
    for cut in range(stream.start, len(content) + 1):
        path.write_bytes(content[:cut])
        cut_stream = TrainedStream(path)
        found = [batch["step"][0].as_py() for _, _, batch in cut_stream.batches()]
        assert found == [1, 2, 3][: sum(end <= cut for end in ends)]
        cut_stream.close()


def test_reading_goes_on_where_it_ended_and_any_batch_is_found_again(tmp_path: Path) -> None:
    groups = [trained_group("0/1", "a", [4], 0, 1)]
    path = write_trained(tmp_path, [(n, groups, token_figures(groups, n)) for n in (1, 2)])
    stream = TrainedStream(path)
    places = [(start, end) for start, end, _ in stream.batches()]
    assert [start for start, _, _ in stream.batches(places[0][1])] == [places[1][0]]
    assert list(stream.batches(places[1][1])) == []
    assert stream.batch(places[1][0])["step"].to_pylist() == [2]
    with pytest.raises(ValueError, match="no whole batch"):
        stream.batch(places[1][1])


def test_a_damaged_batch_ends_what_is_read(tmp_path: Path) -> None:
    """Its length is whole: the bounds of its rows are not."""
    groups = [trained_group("0/1", "a", [4, 3], 0, 1)]
    path = write_trained(tmp_path, [(n, groups, token_figures(groups, n)) for n in (1, 2, 3)])
    places = [(start, end) for start, end, _ in TrainedStream(path).batches()]
    content = path.read_bytes()
    (start, _), (_, body_end) = places[1], places[1]
    path.write_bytes(content[: body_end - 400] + b"\xff" * 400 + content[body_end:])
    stream = TrainedStream(path)
    assert [batch["step"][0].as_py() for _, _, batch in stream.batches()] == [1]
    with pytest.raises(ValueError, match="no whole batch"):
        stream.batch(start)


def test_a_row_whose_figures_are_not_one_a_token_is_not_read(tmp_path: Path) -> None:
    groups = [trained_group("0/1", "a", [4, 3], 0, 1)]
    good = record_batch(1, groups, token_figures(groups, 1))
    other = [trained_group("0/1", "a", [3, 4], 0, 1)]
    odd = record_batch(1, other, token_figures(other, 1)).column("entropy")
    mixed = good.set_column(
        good.schema.get_field_index("entropy"), good.schema.field("entropy"), odd
    )
    path = write_trained(tmp_path, [])
    with path.open("ab") as file:
        file.write(mixed.serialize())
    assert list(TrainedStream(path).batches()) == []


@pytest.mark.parametrize("content", [b"", b"nothing of the kind", b"\0" * 64])
def test_another_file_is_refused_in_words(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "life-0001-rank-000.arrow"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"life-0001-rank-000\.arrow"):
        TrainedStream(path)


def test_files_are_known_by_their_names(tmp_path: Path) -> None:
    for name in ("life-0010-rank-000.arrow", "life-0002-rank-001.arrow", "life-0002-rank-000.arrow",
                 "other.arrow", ".life-0003-rank-000.arrow.part"):  # fmt: skip
        (tmp_path / name).write_bytes(np.zeros(1).tobytes())
    found = [(file.life, file.rank) for file in trained_files(tmp_path)]
    assert found == [(2, 0), (2, 1), (10, 0)]
    assert trained_files(tmp_path / "none") == []
