"""Filters, orders and pages of trajectories, beside a plain reference.

Holds deploy/inspector/query.py, deploy/inspector/changed.py, deploy/inspector/index_rows.py.
"""

import contextlib
import math
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.errors import ConfigError
from common.trained import FOLDER, TrainedStream, trained_files
from common.types import FinishReason
from deploy.inspector.queries import SHOWN_CHARACTERS, trajectories
from deploy.inspector.query import SORTS, TrajectoryQuery
from deploy.inspector.tokens import TokenDecoder
from deploy.inspector.trained_rows import TrainedRows
from tests.deploy.inspector.runs import answered, indexed, step_of, with_tokenizer
from tests.trained_rows import write_trained

IDS = st.lists(st.integers(0, 43), max_size=6)
WORDS = ("red", "RED", "The", " tag", "zebra", "e", ".", "gs", "\0", "\\E", "shows tag")


@st.composite
def lives(draw):
    """(step that a life goes on from, rank, its steps): a life may undo steps of the one before."""
    found, step = [], 0
    for life in range(1, draw(st.integers(1, 3)) + 1):
        begin = draw(st.integers(0, step))
        steps = [
            step_of(
                number,
                [
                    answered(
                        f"{life}/{number}/{place}",
                        f"s{draw(st.integers(0, 3))}",
                        draw(st.lists(IDS, min_size=1, max_size=3)),
                        staleness=draw(st.integers(0, 2)),
                        finish=draw(st.sampled_from((FinishReason.STOP, FinishReason.LENGTH))),
                    )
                    for place in range(draw(st.integers(1, 2)))
                ],
            )
            for number in range(begin + 1, begin + draw(st.integers(1, 3)) + 1)
        ]
        found.append((life, begin, steps))
        step = steps[-1][0]
    return found


STEPS = st.integers(0, 6)
FILTERS = {
    "step_from": STEPS.map(str),
    "step_to": STEPS.map(str),
    "sample": st.sampled_from(("s0", "s1", "s9")),
    "finish": st.sampled_from(("stop", "length", "abort", "other")),
    "staleness_min": st.integers(0, 3).map(str),
    "text": st.sampled_from(WORDS),
    "changed": st.tuples(STEPS, STEPS).map(lambda pair: f"{pair[0]},{pair[1]}"),
}
PAGES = st.fixed_dictionaries(
    {"sort": st.sampled_from(sorted(SORTS)), "order": st.sampled_from(("asc", "desc"))},
    optional={"limit": st.integers(0, 5).map(str), "offset": st.integers(0, 5).map(str)},
)


@st.composite
def queries(draw):
    """At most two filters: with more of them hardly a row is left."""
    names = draw(st.lists(st.sampled_from(sorted(FILTERS)), max_size=2, unique=True))
    return draw(PAGES) | {name: draw(FILTERS[name]) for name in names}


def plain_rows(run: Path, texts: TokenDecoder) -> list[dict]:
    """Every row that no later life undid, with its figures, in plain Python."""
    files = []
    for file in trained_files(run / FOLDER):
        with contextlib.closing(TrainedStream(file.path)) as stream:
            batches = [batch.to_pylist() for _, _, batch in stream.batches()]
            files.append((file.life, stream.from_step, [row for rows in batches for row in rows]))
    found = []
    for life, _, rows in files:
        limit = min((begin for later, begin, _ in files if later > life), default=math.inf)
        found += [plain_figures(row, texts) for row in rows if row["step"] <= limit]
    for row in found:
        answers = [r["whole"] for r in found if r["group_id"] == row["group_id"]]
        row["answer"] = Counter(text.strip() for text in answers).most_common(1)[0][0]
    return found


def plain_figures(row: dict, texts: TokenDecoder) -> dict:
    def mean(values: list[float]) -> float:
        return sum(values) / len(values) if values else math.nan

    pairs = zip(row["student_logprob"], row["rollout_logprob"], strict=True)
    drift = [abs(np.float32(student) - np.float32(rollout)) for student, rollout in pairs]
    gain = [t - s for t, s in zip(row["teacher_logprob"], row["student_logprob"], strict=True)]
    whole = texts.texts([row["token_ids"]])[0]
    return row | {
        "tokens": len(row["token_ids"]),
        "divergence_mean": mean(row["divergence"]),
        "divergence_max": max(row["divergence"], default=math.nan),
        "drift_mean": mean(drift),
        "drift_max": max(drift, default=math.nan),
        "gain_mean": mean(gain),
        "entropy_mean": mean(row["entropy"]),
        "whole": whole,
        "text": whole[:SHOWN_CHARACTERS],
    }


def plain_answer(rows: list[dict], query: TrajectoryQuery) -> list[dict]:
    changed = plain_changed(rows, query.changed)
    kept = [
        row
        for row in rows
        if (query.step_from is None or row["step"] >= query.step_from)
        and (query.step_to is None or row["step"] <= query.step_to)
        and query.sample in (None, row["sample_id"])
        and query.finish in (None, row["finish_reason"])
        and (query.staleness_min is None or row["staleness"] >= query.staleness_min)
        and (query.text is None or query.text.casefold() in row["whole"].casefold())
        and (changed is None or (row["sample_id"], row["step"]) in changed)
    ]
    key, sign = SORTS[query.sort], -1 if query.order == "desc" else 1
    return sorted(
        kept, key=lambda r: (math.isnan(r[key]), 0 if math.isnan(r[key]) else sign * r[key])
    )


def plain_changed(rows: list[dict], steps: tuple[int, int] | None) -> set | None:
    if steps is None:
        return None
    found = set()
    for sample in {row["sample_id"] for row in rows}:
        own = [row for row in rows if row["sample_id"] == sample]
        before = [row for row in own if row["step"] <= steps[0]]
        after = [row for row in own if steps[0] < row["step"] <= steps[1]]
        if before and after:
            old, new = (max(side, key=lambda row: row["step"]) for side in (before, after))
            if last_answer(before, old["step"]) != last_answer(after, new["step"]):
                found |= {(sample, old["step"]), (sample, new["step"])}
    return found


def last_answer(rows: list[dict], step: int) -> str:
    """What the last of the sample's groups of a step answered."""
    return [row["answer"] for row in rows if row["step"] == step][-1]


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(lives(), st.lists(queries(), min_size=5, max_size=10), st.integers(1, 9))
def test_an_answer_is_that_of_a_plain_reference(written, asked, rows_a_block) -> None:
    with tempfile.TemporaryDirectory() as folder:
        run = with_tokenizer(Path(folder))
        for life, begin, steps in written:
            write_trained(run, steps, life, from_step=begin)
        texts, trained, reader = TokenDecoder(run), TrainedRows(run), indexed(run, rows_a_block)
        rows = plain_rows(run, texts)
        for parameters in asked:
            query = TrajectoryQuery.of(parameters)
            found = trajectories(query, reader, trained, texts)
            expected = plain_answer(rows, query)
            assert found["total"] == len(expected)
            page = expected[query.offset : query.offset + query.limit]
            assert len(found["rows"]) == len(page)
            for row, plain in zip(found["rows"], page, strict=True):
                check_row(row, plain, SORTS[query.sort])


def check_row(row: dict, plain: dict, sorted_by: str) -> None:
    names = ("step", "group_id", "sample_id", "index", "tokens", "staleness", "text")
    assert {name: row[name] for name in names} == {name: plain[name] for name in names}
    assert row["finish"] == plain["finish_reason"]
    for name in ("divergence_mean", "divergence_max", "drift_mean", "drift_max", "gain_mean"):
        expected = None if math.isnan(plain[name]) else pytest.approx(plain[name], abs=2e-6)
        assert row[name] == expected


def test_a_query_says_what_it_cannot_use() -> None:
    for parameters, part in (
        ({"sort": "beauty"}, "sort = 'beauty': not known. Fix: sort = divergence"),
        ({"order": "up"}, "order = 'up'"),
        ({"limit": "-1"}, "limit = '-1': no whole number"),
        ({"offset": "9" * 400}, "offset = '9"),
        ({"step_from": "\N{SUPERSCRIPT TWO}"}, "step_from"),
        ({"changed": "10"}, "changed = '10': two steps are needed. Fix: changed = 10,40"),
    ):
        with pytest.raises(ConfigError, match="Fix: ") as caught:
            TrajectoryQuery.of(parameters)
        assert part in str(caught.value)


def test_a_query_is_bounded_and_leaves_out_what_is_empty() -> None:
    query = TrajectoryQuery.of({"limit": "100000", "text": "", "unknown": "x", "changed": "9,3"})
    assert (query.limit, query.text, query.changed) == (1000, None, (3, 9))
    assert TrajectoryQuery.of({"text": "\ud800"}).text == "?"
