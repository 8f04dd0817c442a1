"""Traces as the real Perfetto reads them.

recorded/ is what real processes kept of seven steps of four groups with two rollout servers, whose
learner was killed after step 5 and went on from step 3: the quickstart with --learner.max_steps 7
--learner.groups_per_step 4 --rollout.servers 2 --checkpoint.every_steps 3. The first record of its
journal is without the run's facts.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy import trace
from tests.perfetto import Perfetto, opened

RECORDED = Path(__file__).parent / "recorded"
STEPS, GROUPS, UNDONE = 7, 4, 2


@pytest.fixture(scope="module")
def perfetto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Perfetto]:
    run = tmp_path_factory.mktemp("run")
    shutil.copytree(RECORDED, run, dirs_exist_ok=True)
    trace.main([str(run)])
    with opened(run / "trace.json") as page:
        yield page


def rows() -> list[dict]:
    lines = (RECORDED / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if "learner/step_s" in row]


def test_perfetto_understands_all_of_it(perfetto: Perfetto):
    assert perfetto.faults() == []
    assert perfetto.ask("select count(1) from slice where dur < 0 or ts < 0") == [[0]]
    assert perfetto.ask("select name from process where name is not null order by pid") == [
        ["broker"], ["learner-0"], ["rollout-0"], ["rollout-1"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    "part", ["student_forward", "teacher_forward", "vision", "objective", "backward", "optimizer"]
)
def test_parts_of_steps_last_as_long_as_the_metrics_say(perfetto: Perfetto, part: str):
    sql = "select count(1), sum(dur) / 1e9, max(dur) / 1e9 from slice where name = '{}'"
    ((number, total_s, _),) = perfetto.ask(sql.format(part))
    expected_s = sum(row[f"time/{part}_s"] for row in rows())
    assert len(rows()) == STEPS and number >= STEPS
    assert total_s == pytest.approx(expected_s, abs=1e-6 * number)


def test_steps_and_waits_are_those_of_the_metrics(perfetto: Perfetto):
    found = perfetto.ask(
        "select extract_arg(arg_set_id, 'args.step'), dur / 1e9 from slice "
        "where name = 'step' order by ts"
    )
    assert [step for step, _ in found] == list(range(1, STEPS + 1))
    for (_, seconds), row in zip(found, rows(), strict=True):
        assert seconds == pytest.approx(row["learner/step_s"], abs=5e-3)
    assert perfetto.ask("select count(1) from slice where name = 'undone step'") == [[UNDONE]]


def test_parts_lie_within_the_step_that_they_are_of(perfetto: Perfetto):
    outside = perfetto.ask(
        "select part.name from slice part join slice step on step.name = 'step' "
        "and extract_arg(step.arg_set_id, 'args.step') = extract_arg(part.arg_set_id, 'args.step') "
        "where part.name in ('gradient', 'student_forward', 'vision', 'backward', 'optimizer') "
        "and (part.ts < step.ts or part.ts + part.dur > step.ts + step.dur)"
    )
    assert outside == []
    assert perfetto.ask(
        "select distinct parent.name, part.depth from slice part "
        "join slice parent on parent.id = part.parent_id where part.name = 'vision'"
    ) == [["gradient", 1]]


def test_an_arrow_leads_from_each_trained_group_to_its_step(perfetto: Perfetto):
    found = perfetto.ask(
        "select a.name, b.name, extract_arg(b.arg_set_id, 'args.step'), "
        "count(distinct extract_arg(a.arg_set_id, 'args.group')), max(a.ts + a.dur <= b.ts) "
        "from flow f join slice a on a.id = f.slice_out join slice b on b.id = f.slice_in "
        "group by 1, 2, 3 order by 3"
    )
    assert found == [["generation", "step", step + 1, GROUPS, 1] for step in range(STEPS)]
    of_groups = perfetto.ask(
        "select extract_arg(arg_set_id, 'args.step') step, count(1) from slice "
        "where name = 'group' and extract_arg(arg_set_id, 'args.ending') = 'trained' "
        "group by 1 order by 1"
    )
    assert sum(number for _, number in of_groups) == GROUPS * (STEPS + UNDONE)


def test_a_group_is_leased_queued_and_trained_one_after_the_other(perfetto: Perfetto):
    found = perfetto.ask(
        "select g.dur - sum(part.dur), count(1) from slice part "
        "join slice g on g.id = part.parent_id where g.name = 'group' "
        "and part.name in ('lease', 'queue', 'train') group by g.id"
    )
    assert found and {rest for rest, _ in found} == {0}
    assert max(number for _, number in found) == 3


def test_a_generation_holds_prefill_decode_and_its_responses(perfetto: Perfetto):
    ((number,),) = perfetto.ask("select count(1) from slice where name = 'generation'")
    for name, of_each in {"prefill": 1, "decode": 1, "response 0": 1, "picture": 1}.items():
        found = perfetto.ask(
            f"select count(1), max(abs(depth - 2)) from slice where name = '{name}'"
        )
        assert found[0][0] == number * of_each
    assert perfetto.ask(
        "select count(1) from slice lease join slice g on g.name = 'generation' and "
        "lease.name = 'group' and extract_arg(lease.arg_set_id, 'args.group') = "
        "extract_arg(g.arg_set_id, 'args.group') and extract_arg(lease.arg_set_id, 'args.attempt') "
        "= extract_arg(g.arg_set_id, 'args.attempt') and g.ts < lease.ts - 10000000"
    ) == [[0]]


def test_a_push_has_its_phases_on_both_sides(perfetto: Perfetto):
    found = dict(
        perfetto.ask(
            "select s.name, count(1) from slice s join thread_track t on t.id = s.track_id "
            "join thread using(utid) where thread.name in ('pushes', 'weights') group by 1"
        )
    )
    pushes = found["push"]
    assert pushes == found["broadcast"] == found["announce"] > STEPS
    assert found["update"] >= 2 * (STEPS + 1)
    assert {"pause", "receive", "verify", "check_probe", "continue"} <= found.keys()


def test_curves_are_there(perfetto: Perfetto):
    found = perfetto.ask(
        "select t.name, count(1) from counter join track t on t.id = track_id group by 1"
    )
    names = {name: number for name, number in found}
    assert names["staleness max_steps"] == STEPS
    assert {"groups in lease", "groups in queue", "slots used slots"} <= names.keys()
    assert (
        max(
            value
            for (value,) in perfetto.ask(
                "select value from counter join track t on t.id = track_id "
                "where t.name = 'slots used slots'"
            )
        )
        <= 2 * GROUPS
    )
