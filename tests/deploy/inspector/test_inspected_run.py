"""All answers about a run, of a whole folder and of folders that lack something.

Holds deploy/inspector/groups.py, deploy/inspector/samples.py, deploy/inspector/histograms.py,
deploy/inspector/quarantined.py, deploy/inspector/explanations.py, deploy/inspector/trained_rows.py.
"""

import contextlib
import json
import math
import shutil
import threading
from pathlib import Path

import pytest

from common.dataset_files import write_rows
from common.errors import ConfigError, DataError
from common.trained import FOLDER as TRAINED
from common.trained import TrainedStream, record_batch, trained_files
from common.types import FinishReason
from deploy.inspector.groups import weight_of
from deploy.inspector.index_files import FOLDER
from deploy.inspector.inspected_run import InspectedRun
from deploy.inspector.trained_rows import TrainedRows
from tests.deploy.inspector.runs import (
    END,
    GREEN,
    RED,
    SHOWS,
    TAG,
    THE,
    answered,
    step_of,
    with_tokenizer,
    write_lines,
)
from tests.trained_rows import trained_group, write_trained
from tests.waiting import wait_until

RIGHT, WRONG = [THE, TAG, SHOWS, RED, END], [THE, TAG, SHOWS, GREEN, END]


def groups_of(step: int) -> list:
    """Sample s0 answers otherwise from step 4 on; s1 is always right."""
    ids = WRONG if step < 4 else RIGHT
    return [
        answered(f"{step}/0", "s0", [ids, ids, RIGHT], step - 1, staleness=step % 3),
        answered(f"{step}/1", "s1", [RIGHT, RIGHT[:2]], finish=FinishReason.LENGTH),
    ]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = with_tokenizer(tmp_path / "run")
    write_trained(folder, [step_of(step, groups_of(step)) for step in range(1, 7)])
    picture = {"image": "a.png", "image_sha256": "0" * 64, "width": 640, "height": 480}
    rows = [
        {**picture, "sample_id": "s0", "problem": "<image>Which tag?", "answer": "red",
         "box": [10, 20, 30, 40]},
        {**picture, "sample_id": "s1", "problem": "Where?<image>", "box": None},
    ]  # fmt: skip
    write_rows(rows, tmp_path / "train.parquet")
    (folder / "config.toml").write_text(
        f'[data]\ntrain = "{tmp_path / "train.parquet"}"\n[objective]\nimportance_clip = 1.5\n'
        "[learner]\nmax_steps = 8\n"
    )
    figures = [{"step": n, "time_s": 3.0 * n, "learner/step_s": 1.0} for n in range(1, 7)]
    write_lines(folder / "metrics.jsonl", figures)
    return folder


def complete(inspected: InspectedRun, **parameters: str) -> dict:
    """The answer once all is indexed."""
    wait_until(lambda: inspected.trajectories({"limit": "0"})["indexed"]["is_complete"])
    return inspected.trajectories(parameters)


def test_a_run_s_trajectories_and_groups(run: Path) -> None:
    with InspectedRun("a", run) as inspected:
        found = complete(inspected, sort="length", order="asc", limit="1")
        assert (found["total"], found["indexed"]["rows"]) == (30, 30)
        (row,) = found["rows"]
        assert (row["text"], row["tokens"], row["finish"]) == ("The tag", 2, "length")
        changed = inspected.trajectories({"changed": "3,6"})["rows"]
        assert {(r["sample_id"], r["step"]) for r in changed} == {("s0", 3), ("s0", 6)}
        group = inspected.group({"step": "5", "group": "5/0"})
        assert group["sample"] == {
            "sample_id": "s0", "question": "Which tag?", "answer": "red", "box": [10, 20, 30, 40],
            "image_size": [640, 480],
        }  # fmt: skip
        assert group["others"] == [{"step": n, "group_id": f"{n}/0"} for n in (1, 2, 3, 4, 6)]
        assert [t["text"] for t in group["trajectories"]] == ["The tag shows red"] * 3
        bars = inspected.histograms()
        assert [(b["from"], b["count"]) for b in bars["staleness"]] == [(0, 18), (1, 6), (2, 6)]
        assert sum(bar["count"] for bar in bars["length"]) == 30
        described = inspected.describe()
    assert (described["step"], described["total_steps"], described["seconds"]) == (6, 8, 18.0)
    assert described["notes"] == [] and described["has"]["trajectories"]
    json.dumps([found, group, bars, described], allow_nan=False)


def test_a_token_has_its_figures_and_its_importance_weight(run: Path) -> None:
    """Held against the rows as the learner wrote them."""
    with InspectedRun("a", run) as inspected:
        complete(inspected)
        group = inspected.group({"step": "2", "group": "2/0"})
    stream = TrainedStream(trained_files(run / TRAINED)[0].path)
    rows = [row for _, _, batch in stream.batches() for row in batch.to_pylist()]
    stream.close()
    rows = [row for row in rows if row["group_id"] == "2/0"]
    for shown, row in zip(group["trajectories"], rows, strict=True):
        assert shown["spans"] == [[1, 0, 5]] and shown["cache_version"] == 1
        for place, token in enumerate(shown["tokens"]):
            assert token["id"] == row["token_ids"][place]
            for name, column in (("student", "student_logprob"), ("teacher", "teacher_logprob"),
                                 ("rollout", "rollout_logprob"), ("divergence", "divergence"),
                                 ("entropy", "entropy")):  # fmt: skip
                assert token[name] == pytest.approx(row[column][place], abs=1e-6)
            ratio = math.exp(row["student_logprob"][place] - row["rollout_logprob"][place])
            assert token["weight"] == pytest.approx(min(ratio, 1.5), abs=1e-6)


def test_spans_of_several_versions_are_told_with_their_bounds(tmp_path: Path) -> None:
    write_trained(tmp_path, [step_of(4, [trained_group("0/1", "s1", [4, 9], 2, 0)])])
    with InspectedRun("a", tmp_path) as inspected:
        complete(inspected)
        first, second = inspected.group({"step": "4", "group": "0/1"})["trajectories"]
    assert first["spans"] == [[2, 0, 4]] and second["spans"] == [[2, 0, 4], [3, 4, 9]]
    assert first["tokens"][0]["text"] == str(first["tokens"][0]["id"])  # there is no tokenizer


def test_a_weight_is_bounded_and_unknown_without_a_limit() -> None:
    assert weight_of(0.0, -1000.0, 3.0) == 3.0
    assert weight_of(-1000.0, 0.0, 3.0) == pytest.approx(0, abs=1e-6)
    assert weight_of(-1.0, -1.0, None) is None and weight_of(-math.inf, 0.0, 2.0) is None


def test_a_run_that_goes_on_is_followed(run: Path) -> None:
    with InspectedRun("a", run) as inspected:
        assert complete(inspected)["total"] == 30
        content = record_batch(*step_of(7, groups_of(7))).serialize().to_pybytes()
        with trained_files(run / TRAINED)[0].path.open("ab") as file:
            file.write(content[:100])
            file.flush()
            assert complete(inspected)["total"] == 30
            file.write(content[100:])
        assert complete(inspected)["total"] == 35
        assert inspected.group({"step": "7", "group": "7/1"})["sample"]["question"] == "Where?"
        shutil.rmtree(run / FOLDER)
        wait_until(lambda: complete(inspected)["total"] == 35)


def test_what_is_lost_of_the_trajectories_is_said_and_the_rest_is_shown(run: Path) -> None:
    path = write_trained(run, [step_of(7, groups_of(7))], rank=1)
    with path.open("ab") as file:
        file.write(b"\xff" * 100)
    with InspectedRun("a", run) as inspected:
        assert complete(inspected)["total"] == 35
        (note,) = inspected.describe()["notes"]
        assert note.startswith(f"{path.name}: from byte {path.stat().st_size - 100} of ")
        path.unlink()
        wait_until(lambda: complete(inspected)["total"] == 30)
        assert inspected.describe()["notes"] == []


def test_a_list_reads_the_first_tokens_of_an_answer_alone(run: Path) -> None:
    path = trained_files(run / TRAINED)[0].path
    with contextlib.closing(TrainedStream(path)) as stream:
        start = stream.start
    where = [(path.name, start, 2), (path.name, start, 0), (path.name, start, 2)]
    found = TrainedRows(run).rows(where, 2)
    assert [row["token_ids"] for row in found] == [RIGHT[:2], WRONG[:2], RIGHT[:2]]
    assert [row["sample_id"] for row in found] == ["s0"] * 3


def test_two_inspectors_of_a_run_share_one_index(run: Path) -> None:
    with InspectedRun("a", run) as first, InspectedRun("b", run) as second:
        assert complete(first)["total"] == complete(second)["total"] == 30
    assert len(list((run / FOLDER).glob("*.numbers.arrow"))) == 1


def test_a_run_may_be_named_from_where_one_is(run: Path, monkeypatch) -> None:
    monkeypatch.chdir(run.parent)
    with InspectedRun("a", Path("run")) as inspected:
        assert complete(inspected)["total"] == 30


def test_many_threads_may_ask_at_once(run: Path) -> None:
    found: list[int] = []
    with InspectedRun("a", run) as inspected:
        complete(inspected)

        def ask() -> None:
            for sort in ("drift", "step"):
                found.append(inspected.trajectories({"sort": sort, "text": "RED"})["total"])
                inspected.curves()
                inspected.describe()

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == [3 * 1 + 3 * 3 + 6] * 16


def test_a_run_folder_that_cannot_be_written_opens(run: Path, tmp_path: Path) -> None:
    (run / FOLDER).write_text("in the way of a folder, as for a file system that is read-only")
    with InspectedRun("a", run, cache=tmp_path / "cache") as inspected:
        assert complete(inspected)["total"] == 30
        (note,) = inspected.describe()["notes"]
    assert note.startswith("the run folder cannot be written: its index is in ")
    assert list((tmp_path / "cache").glob("*/manifest.json"))


def test_a_run_of_before_trajectories_were_kept_opens(run: Path) -> None:
    shutil.rmtree(run / TRAINED)
    (run / "metrics.jsonl").write_text('{"step": 3, "learner/step_s": 1, "learner/loss_nats": 1}\n')
    with InspectedRun("a", run) as inspected:
        assert inspected.trajectories({})["total"] == 0
        assert inspected.histograms() == {"staleness": [], "length": []}
        assert [chart["title"] for chart in inspected.curves()["charts"]] == ["Loss"]
        (note,) = inspected.describe()["notes"]
        assert "older version" in note
        with pytest.raises(DataError, match="no group"):
            inspected.group({"step": "1", "group": "1/0"})


def test_an_empty_folder_has_an_answer_to_everything(tmp_path: Path) -> None:
    with InspectedRun("b", tmp_path) as inspected:
        described = inspected.describe()
        assert described["state"] == "stopped" and described["total_steps"] is None
        assert inspected.curves() == {"charts": []}
        assert inspected.trajectories({})["indexed"]["is_complete"]
        assert inspected.quarantined({}) == {"total": 0, "rows": []}
        assert inspected.heldout({})["items"] == []
        assert (
            inspected.explain()["sentence"] == "" and "holds no run" in inspected.explain()["text"]
        )
        assert inspected.plan()["plan"] is None
    with pytest.raises(ConfigError, match="no such folder"):
        InspectedRun("a", tmp_path / "none")


def test_quarantined_samples_have_their_reasons(tmp_path: Path) -> None:
    write_lines(
        tmp_path / "quarantine.jsonl",
        [
            {"sample_id": "s7", "where": "rollout", "row": None, "group_id": "0/12",
             "attempts": 3, "reason": "HTTP 500"},
            {"sample_id": None, "where": "reading", "row": 4, "group_id": None, "attempts": 0,
             "reason": "row 4: box"},
        ],
    )  # fmt: skip
    with InspectedRun("a", tmp_path) as inspected:
        found = inspected.quarantined({"limit": "1", "offset": "1"})
        first = inspected.quarantined({})["rows"][0]
    assert found["total"] == 2 and found["rows"][0]["attempts"] is None
    assert (first["sample_id"], first["attempts"], first["reason"]) == ("s7", 3, "HTTP 500")


def test_a_plan_is_shown_as_a_table(tmp_path: Path) -> None:
    prediction = {
        "servers": 2, "ranks": 1, "max_staleness": 1, "step_s": 2.5, "learner_idle_share": 0.1,
        "rollout_idle_share": 0.2, "total_s": 250.0,
    }  # fmt: skip
    (tmp_path / "plan.json").write_text(json.dumps({"predictions": [prediction]}))
    with InspectedRun("a", tmp_path) as inspected:
        found = inspected.plan()
        (tmp_path / "plan.json").write_text(json.dumps({"predictions": [{"servers": 2}]}))
        damaged = inspected.plan()
    assert "2.50 s" in found["text"] and found["plan"]["predictions"] == [prediction]
    assert damaged["plan"] is None and damaged["text"].startswith("not known")


def test_requests_that_cannot_be_met_are_named(run: Path) -> None:
    with InspectedRun("a", run) as inspected:
        for ask, parameters, part in (
            (inspected.trajectories, {"sort": "x"}, "sort = 'x'"),
            (inspected.group, {}, "step = ''"),
            (inspected.heldout, {"change": "x"}, "change = 'x'"),
            (inspected.quarantined, {"limit": "x"}, "limit = 'x'"),
        ):
            with pytest.raises(ConfigError) as caught:
                ask(parameters)
            assert part in str(caught.value)
