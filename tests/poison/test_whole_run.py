"""Every kind of row through a whole run: what can be trained is, and the rest is told apart.

    pytest -m slow -rP tests/poison/test_whole_run.py

prints the table: kind, what became of it, and the reason that is shown.
"""

from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from common.data_health import NUM_FIRST
from deploy.exit_codes import ExitCode
from tests.poison.harness import Ended, run_on
from tests.poison.kinds import KINDS, Kind, Outcome, build
from tests.recorded_page import run_of

MAX_ATTEMPTS = 3
NUM_TRAJECTORIES = 4
GROUPS_PER_STEP = 4
NUM_HEALTHY = 2  # with the good kinds and the learner's they make whole steps
ATTEMPTS = {Outcome.AT_READING: 0, Outcome.AT_ROLLOUT: MAX_ATTEMPTS, Outcome.BY_LEARNER: 1}
WHERE = {
    "reading": Outcome.AT_READING,
    "rollout": Outcome.AT_ROLLOUT,
    "learner": Outcome.BY_LEARNER,
}
COUNTS = Counter(kind.outcome for kind in KINDS)
NUM_ROWS = len(KINDS) + NUM_HEALTHY
NUM_QUARANTINED = COUNTS[Outcome.AT_ROLLOUT] + COUNTS[Outcome.BY_LEARNER]
# Of names that cannot be told, the row alone is.
NAMELESS = ("sample_id null", "sample_id empty", "sample_id with a line break")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


class Entry(NamedTuple):
    """What quarantine.jsonl says of a kind."""

    outcome: Outcome
    attempts: int
    reason: str


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("poison") / "data", NUM_HEALTHY).train


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("whole") / "run"


@pytest.fixture(scope="module")
def ended(train: Path, folder: Path) -> Ended:
    """A run that takes whatever can be trained."""
    return run_on(
        train, folder, "--data.max_refused_share", "1",
        "--broker.max_attempts", str(MAX_ATTEMPTS),
        "--rollout.trajectories_per_sample", str(NUM_TRAJECTORIES),
    )  # fmt: skip


def entries_by_kind(quarantine: list[dict[str, Any]]) -> dict[str, list[Entry]]:
    """A refused row is known by its number, a quarantined sample by its name."""
    found: dict[str, list[Entry]] = {}
    for entry in quarantine:
        row = entry["row"]
        name = entry["sample_id"] if row is None else KINDS[row].name
        outcome = WHERE[entry["where"]]
        found.setdefault(name, []).append(Entry(outcome, entry["attempts"], entry["reason"]))
    return found


def test_each_kind_is_trained_or_told_with_its_reason(ended: Ended) -> None:
    found = entries_by_kind(ended.quarantine)
    print("\n".join(table(found)))
    assert ended.code == ExitCode.TRAINED, ended.output
    assert set(found) == {kind.name for kind in KINDS if kind.outcome is not Outcome.TRAINED}
    assert [name for name, entries in found.items() if len(entries) > 1] == []
    assert [what for kind in KINDS for what in differences(kind, found)] == []


def differences(kind: Kind, found: dict[str, list[Entry]]) -> list[str]:
    """What is not as the kind wants it."""
    if kind.outcome is Outcome.TRAINED:
        return []
    (entry,) = found[kind.name]
    wanted = (kind.outcome, ATTEMPTS[kind.outcome])
    problems = [] if entry[:2] == wanted else [f"{kind.name}: {entry[:2]}, not {wanted}"]
    if kind.reason not in entry.reason:
        problems.append(f"{kind.name}: {entry.reason!r} without {kind.reason!r}")
    if ". Fix: " not in entry.reason.replace("...", ".") or "\n" in entry.reason:
        problems.append(f"{kind.name}: {entry.reason!r} is not one line with its mend")
    return problems


def test_entries_name_what_they_are_of(ended: Ended) -> None:
    for entry in ended.quarantine:
        if entry["where"] != "reading":
            assert entry["row"] is None and entry["group_id"], entry
            continue
        kind = KINDS[entry["row"]]
        wanted = None if kind.name in NAMELESS else kind.name
        if kind.name == "sample_id twice":
            wanted = "text before the picture"  # a good sample's, which is trained
        assert (entry["group_id"], entry["sample_id"]) == (None, wanted), entry


def test_counts_of_summary_report_and_terminal_are_those_of_the_file(
    ended: Ended, folder: Path
) -> None:
    summary = ended.summary
    num_trained = COUNTS[Outcome.TRAINED] + NUM_HEALTHY
    by_where = Counter(WHERE[entry["where"]] for entry in ended.quarantine)
    assert by_where == {outcome: COUNTS[outcome] for outcome in ATTEMPTS}
    assert summary["data_rows"] == NUM_ROWS
    assert summary["data_rows_refused"] == COUNTS[Outcome.AT_READING]
    assert summary["samples_quarantined"] == NUM_QUARANTINED
    assert summary["trajectories_trained"] == NUM_TRAJECTORIES * num_trained, "the rest is trained"
    num_stepped = num_trained + COUNTS[Outcome.BY_LEARNER]  # what it refuses has a place in a step
    assert (summary["steps"], summary["groups_left_over"]) == (num_stepped // GROUPS_PER_STEP, 0)
    assert summary["data_fault"] is None and not summary["interrupted"]
    first = summary["first_refused"]
    assert len(first) == NUM_FIRST
    told = zip(first, ended.quarantine[:NUM_FIRST], strict=True)
    assert all(line.endswith(entry["reason"]) for line, entry in told)
    report = "\n".join(run_of(folder / "report.html")["notes"])
    counts = (
        f"of {NUM_ROWS} rows {COUNTS[Outcome.AT_READING]} refused when they were read, "
        f"{NUM_QUARANTINED} quarantined since"
    )
    for text in (ended.output, report):
        assert all(line in text for line in (counts, *first))


def test_no_process_has_died_of_it(ended: Ended) -> None:
    assert "Traceback" not in ended.logs and "Traceback" not in ended.output
    assert "starting the engine again" not in ended.logs


def test_the_default_share_refuses_the_start_and_leaves_nothing(
    train: Path, tmp_path: Path
) -> None:
    ended = run_on(train, tmp_path / "run")
    assert ended.code == ExitCode.REFUSED, ended.output
    refused = [kind for kind in KINDS if kind.outcome is Outcome.AT_READING]
    num_refused, first = len(refused), KINDS.index(refused[0])
    assert f"of {NUM_ROWS} rows of data.train {num_refused} refused" in ended.output
    assert f"data.max_refused_share = 0.1 allows {NUM_ROWS // 10}: row {first}: " in ended.output
    assert all(kind.reason in ended.output for kind in refused[:3])
    assert "Fix: correct them, or raise data.max_refused_share" in ended.output
    assert len(ended.output.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def table(found: dict[str, list[Entry]]) -> list[str]:
    """Lines of a table in Markdown, for people."""
    lines = ["| kind | what happened | attempts | reason shown |", "|---|---|---|---|"]
    for kind in KINDS:
        for outcome, attempts, reason in found.get(kind.name, [Entry(Outcome.TRAINED, 0, "")]):
            shown = reason.replace("|", "\\|")
            lines.append(f"| {kind.name} | {outcome} | {attempts or ''} | {shown} |")
    counts = ", ".join(f"{COUNTS[outcome]} {outcome}" for outcome in Outcome)
    return [*lines, f"{len(KINDS)} kinds: {counts}"]
