"""The command, on runs that kept all, some or none of it.

Holds deploy/tracing/overview.py, deploy/tracing/broker_tracks.py, deploy/tracing/learner_tracks.py.
"""

import gzip
import json
import re
import shutil
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from common.journal_file import JOURNAL
from common.metrics import METRICS
from deploy import trace
from deploy.tracing.overview import _CURVES
from tests.deploy.planning.made_up_run import STEP_S, WAIT_S, make_run, tiny_model

RECORDED = Path(__file__).parent / "recorded"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of which everything was kept."""
    return Path(shutil.copytree(RECORDED, tmp_path / "run"))


def traced(run: Path, *arguments: str) -> list[dict]:
    trace.main([str(run), *arguments])
    return checked(json.loads((run / "trace.json").read_text()))


def checked(document: dict) -> list[dict]:
    """The events, if they are well-formed: lives nest and end, slices of a row do not cross."""
    events: list[dict] = document["traceEvents"]
    open_until: dict[int, list[int]] = defaultdict(list)
    for event in sorted(of(events, "X"), key=lambda event: (event["ts"], -event["dur"])):
        stack = open_until[event["tid"]]
        while stack and stack[-1] <= event["ts"]:
            stack.pop()
        end = event["ts"] + event["dur"]
        assert event["ts"] >= 0 and (not stack or end <= stack[-1]), event
        stack.append(end)
    balance = Counter(event["id2"]["local"] for event in of(events, "b"))
    balance.subtract(event["id2"]["local"] for event in of(events, "e"))
    assert not any(balance.values())
    return events


def of(events: list[dict], phase: str, name: str = "") -> list[dict]:
    return [event for event in events if event["ph"] == phase and name in ("", event["name"])]


def refusal(capsys, *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        trace.main(list(arguments))
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


def test_the_command_says_what_it_wrote(run: Path, capsys):
    events = traced(run)
    said = capsys.readouterr().out
    assert f"{run}/trace.json: {len(events)} events" in said and "note:" not in said
    assert len(of(events, "f")) == 28 and len(of(events, "X", "undone step")) == 2


def test_steps_are_chosen(run: Path, tmp_path: Path):
    out = tmp_path / "some.json.gz"
    trace.main([str(run), "--steps", "3:4", "--out", str(out)])
    with gzip.open(out, "rt") as file:
        some = checked(json.load(file))
    steps = Counter(event["args"]["step"] for event in of(some, "X", "step"))
    assert steps.keys() >= {3, 4} and len(steps) < 7
    arrows = {event["id"] for event in of(some, "f")}
    assert len(arrows) >= 8 and arrows <= {event["id"] for event in of(some, "s")}
    assert not (run / "trace.json").exists()


def test_a_run_of_before_has_the_journal_alone(tmp_path: Path, capsys):
    run = make_run(tmp_path / "run", tiny_model(tmp_path / "tiny"), steps=6)
    events = traced(run)
    said = capsys.readouterr().out
    assert "note: there are no marks" in said and "has no anchor" in said
    steps, waits = of(events, "X", "step"), of(events, "X", "wait_batch")
    assert [step["args"]["step"] for step in steps] == [1, 2, 3, 4, 5, 6]
    assert {step["dur"] for step in steps} == {STEP_S * 1e6}
    assert {wait["dur"] for wait in waits} == {WAIT_S * 1e6}
    assert steps[0]["args"]["backward"] == 0.75
    ends = [step["ts"] + step["dur"] for step in steps]
    trained = [e for e in of(events, "e", "group")]
    assert sorted({event["ts"] for event in trained}) == ends  # as they were acknowledged
    assert len(of(events, "f")) == len(of(events, "X", "generation")) == 12


def test_marks_alone_make_a_trace_without_groups(run: Path, capsys):
    shutil.rmtree(run / "journal")
    events = traced(run)
    assert "note: there is no journal" in capsys.readouterr().out
    assert not of(events, "b") and len(of(events, "X", "step")) == 7


def test_metrics_alone_make_a_trace_of_steps(run: Path, capsys):
    shutil.rmtree(run / "journal")
    shutil.rmtree(run / "spans")
    events = traced(run)
    assert "no journal" in capsys.readouterr().out
    assert len(of(events, "X", "step")) == 7 and of(events, "X", "step")[0]["args"]["backward"] > 0


def test_without_the_broker_s_marks_its_clock_is_tied_to_the_learner_s(run: Path, capsys):
    exact = {event["id2"]["local"]: event["ts"] for event in of(traced(run), "b", "group")}
    (run / "spans" / "broker.jsonl").unlink()
    events = traced(run)
    assert "has no anchor" in capsys.readouterr().out
    groups = of(events, "b", "group")
    first = min(event["ts"] for event in groups) - min(exact.values())
    for event in groups:
        assert event["ts"] - exact[event["id2"]["local"]] == pytest.approx(first, abs=2)
    assert len(of(events, "f")) == 28


def test_marks_that_nothing_ties_to_the_journal_stand_alone(run: Path, capsys):
    (run / "spans" / "broker.jsonl").unlink()
    (run / "spans" / "learner-0.jsonl").unlink()
    events = traced(run)
    assert "nothing ties the journal to the marks" in capsys.readouterr().out
    assert not of(events, "b") and of(events, "X", "generation")


@pytest.mark.parametrize("ahead_s", [3.25, -7200.0])
def test_the_clock_of_another_machine_is_brought_to_the_broker_s(run: Path, ahead_s, capsys):
    exact = {group(event): event["ts"] for event in of(traced(run), "X", "generation")}
    path = run / "spans" / "rollout-1.jsonl"
    marks = [json.loads(line) for line in path.read_text().splitlines()]
    shifted = [
        m | {"begin_s": m["begin_s"] + ahead_s, "end_s": m["end_s"] + ahead_s} for m in marks
    ]
    path.write_text("".join(json.dumps(mark) + "\n" for mark in shifted))
    capsys.readouterr()
    events = traced(run)
    (moved,) = re.findall(r"the clock of rollout-1 is moved by (\S+) s", capsys.readouterr().out)
    assert float(moved) == pytest.approx(-ahead_s, abs=0.15)
    for event in of(events, "X", "generation"):
        assert event["ts"] == pytest.approx(exact[group(event)], abs=150_000)


def test_another_machine_whose_clock_fits_is_told_with_what_is_not_known(run: Path, capsys):
    path = run / "spans" / "rollout-1.jsonl"
    content = path.read_text()
    path.write_text(content.replace('"host": "vm"', '"host": "other"'))
    assert content != path.read_text()
    traced(run)
    told = r"the clock of rollout-1, on another machine, fits the broker's as it is \(-\S+ to \+"
    assert re.search(told, capsys.readouterr().out)


def group(event: dict) -> tuple[str, int]:
    return event["args"]["group"], event["args"]["attempt"]


@pytest.mark.parametrize("share", [0.0, 0.13, 0.5, 0.77, 0.999])
def test_files_that_end_anywhere_make_a_trace(run: Path, share: float):
    for path in [run / "journal" / JOURNAL, run / "metrics.jsonl", *(run / "spans").iterdir()]:
        content = path.read_bytes()
        path.write_bytes(content[: max(200, int(share * len(content)))])
    traced(run)


def test_a_damaged_journal_is_drawn_up_to_there(run: Path, capsys):
    path = run / "journal" / JOURNAL
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    events = traced(run)
    assert (
        "note: the journal is damaged, and is drawn up to there: record" in capsys.readouterr().out
    )
    assert 0 < len(of(events, "f")) < 28


def test_a_file_that_was_full_is_told(run: Path, capsys):
    with (run / "spans" / "rollout-0.jsonl").open("a") as file:
        file.write('{"name": "full", "begin_s": 1796068300.0, "end_s": 1796068300.0}\n')
    traced(run)
    assert "rollout-0.jsonl is full (run.spans_mib)" in capsys.readouterr().out


def test_what_is_drawn_as_a_curve_is_a_figure_of_a_run():
    assert {name for names in _CURVES.values() for name in names} <= METRICS.keys()


@pytest.mark.parametrize("name", ["drift/mean_nats", "learner/logprob_difference_mean_nats"])
def test_drift_is_drawn_under_the_names_of_any_version(run: Path, name: str):
    path = run / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows = [row for row in rows if "learner/step_s" in row]
    drifts = [row.pop("learner/logprob_difference_mean_nats") for row in rows]
    written = (row | {name: drift} for row, drift in zip(rows, drifts, strict=True))
    path.write_text("".join(json.dumps(row) + "\n" for row in written))
    drawn = {event["args"]["mean_nats"]: event["ts"] for event in of(traced(run), "C", "drift")}
    assert set(drawn) == set(drifts) and len(drifts) >= 7


def test_a_line_of_metrics_that_is_no_row_is_named(run: Path, capsys):
    path = run / "metrics.jsonl"
    path.write_text("[1]\n" + path.read_text())
    assert "metrics.jsonl, line 1: '[1]' is no row of figures. Fix:" in refusal(capsys, str(run))


def test_what_is_no_run_is_refused_in_one_line(tmp_path: Path, capsys):
    assert "is no folder. Fix:" in refusal(capsys, str(tmp_path / "none"))
    assert "there is nothing to draw. Fix:" in refusal(capsys, str(tmp_path))
    (tmp_path / "journal").mkdir()
    (tmp_path / "journal" / JOURNAL).touch()
    assert "there is nothing to draw. Fix:" in refusal(capsys, str(tmp_path))


def test_other_mistakes_are_one_line_each(run: Path, capsys):
    assert "the run has steps 1 to 7" in refusal(capsys, str(run), "--steps", "8:9")
    line = refusal(capsys, str(run), "--out", str(run / "no" / "folder.json"))
    assert "cannot be written: No such file" in line and "Fix: --out FILE" in line
    with pytest.raises(SystemExit):
        trace.main([str(run), "--steps", "4:3"])
    assert "'4:3' is no range of steps" in capsys.readouterr().err
