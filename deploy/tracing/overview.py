"""One look at all that a run has kept, before anything is drawn."""

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from broker.storage.frames import CorruptJournal, Record
from common.errors import ConfigError
from common.figure_rows import Row, read_rows
from common.journal_file import JOURNAL
from deploy.planning.journal_facts import journal_records
from deploy.tracing.clocks import Bounds
from deploy.tracing.lives import GroupLife, Lives
from deploy.tracing.marks import Mark, Undone, mark_files, read_marks

_SAMPLES = 5000  # groups by which clocks are compared
_ROLE_0 = "learner-0"
_CURVES = {  # metrics that are drawn as counters, by the counter's name
    "staleness": ("staleness/max_steps", "staleness/mean_steps"),
    "drift": ("learner/mismatch_kl_nats", "drift/mean_nats"),
}


@dataclass(frozen=True)
class StepRow:
    """What the learner wrote of a step."""

    time_s: float  # since the learner began
    step_s: float
    wait_s: float
    parts: dict[str, float]  # seconds by part
    curves: dict[str, dict[str, float]]


@dataclass
class Overview:
    """What is known of a run. Times of the broker are on its clock, others on their machine's."""

    run: Path
    files: dict[str, Path]
    rows: dict[int, StepRow]
    notes: list[str] = field(default_factory=list)
    anchors: list[tuple[float, float]] = field(default_factory=list)  # (broker's clock, 1970's)
    taken_s: dict[int, float] = field(default_factory=dict)
    acknowledged_s: dict[int, float] = field(default_factory=dict)
    trained_by: dict[int, int] = field(default_factory=dict)  # record that counts, by step
    leased_s: dict[int, float] = field(default_factory=dict)  # of a step's first group
    samples: dict[str, tuple[float, float]] = field(default_factory=dict)  # lease, submit by key
    begun_s: float | None = None  # by the journal; None means that there is none
    undone: dict[str, Undone] = field(default_factory=dict)  # by learner
    steps: dict[int, tuple[float, float]] = field(default_factory=dict)  # rank 0's, that count
    first: dict[str, float] = field(default_factory=dict)  # first mark by role
    hosts: dict[str, str] = field(default_factory=dict)  # by role
    _rows_s: float = 0.0  # when the rows' time was 0

    @property
    def journal(self) -> Path:
        return self.run / "journal" / JOURNAL

    def records(self) -> Iterator[Record]:
        """The journal's records, as far as they can be read; none without a journal."""
        if self.journal.is_file():
            try:
                yield from journal_records(self.journal)
            except CorruptJournal as damage:
                self._note(f"the journal is damaged, and is drawn up to there: {damage}")

    def broker_wall(self, seconds: float) -> float:
        """The broker's time on the clock of 1970; without an anchor as it is."""
        if not self.anchors:
            return seconds
        # What is as old as the broker's latest beginning was written before it.
        found = bisect_left(self.anchors, (seconds, float("-inf"))) - 1
        clock_s, wall_s = self.anchors[max(0, found)]
        return wall_s + seconds - clock_s

    def bounds_of(self, role: str) -> Bounds:
        """What the journal tells of a process's clock against the broker's."""
        bounds = Bounds()
        for mark in read_marks(self.files[role]):
            if mark.name == "generation":
                key = f"{mark.facts.get('group')}#{mark.facts.get('attempt')}"
                if key in self.samples:
                    leased, submitted = map(self.broker_wall, self.samples[key])
                    bounds.not_before(mark.begin, leased)
                    bounds.not_after(mark.begin + _seconds(mark, "answered_s"), submitted)
            elif mark.step in self.taken_s and not self.undone[role].has(mark.step, mark.begin):
                if mark.name == "wait_batch":
                    bounds.not_before(mark.end, self.broker_wall(self.taken_s[mark.step]))
                elif mark.name == "update" and mark.step in self.acknowledged_s:
                    acknowledged = self.broker_wall(self.acknowledged_s[mark.step])
                    bounds.not_after(mark.end, acknowledged)
        return bounds

    def span_of(self, step: int, offset_s: float = 0.0) -> tuple[float, float] | None:
        """When the learner worked on a step that counts; None means that it is not known.

        Args:
            offset_s: of the clock of rank 0.
        """
        if step in self.steps:
            begin, end = self.steps[step]
            return begin + offset_s, end + offset_s
        row = self.rows.get(step)
        if row is None:
            return None
        end = self._rows_s + row.time_s
        return end - row.step_s, end

    # ---- the look --------------------------------------------------------------------------------
    def look(self) -> None:
        self._look_at_journal()
        for role, path in self.files.items():
            self._look_at_marks(role, path)
        self.anchors.sort()
        self._say_what_is_missing()
        self._tie_broker()
        self._tie_rows()

    def _look_at_journal(self) -> None:
        lives, record = Lives(), None
        try:
            for record in self.records():
                if self.begun_s is None:
                    self.begun_s = record.seconds
                for life in lives.read(record):
                    self._note_life(life)
                if lives.acknowledged is not None:
                    step = lives.acknowledged
                    self.acknowledged_s[step] = record.seconds
                    self.trained_by[step] = record.number
        except CorruptJournal as error:
            self._note(f"the journal is of another version, and is drawn up to there: {error}")

    def _note_life(self, life: GroupLife) -> None:
        if life.submitted_s is not None and life.server and len(self.samples) < _SAMPLES:
            self.samples[life.key] = (life.begin_s, life.submitted_s)
        if life.step is not None and life.taken_s is not None:
            self.taken_s[life.step] = life.taken_s
            earliest = self.leased_s.get(life.step, life.begin_s)
            self.leased_s[life.step] = min(earliest, life.begin_s)

    def _look_at_marks(self, role: str, path: Path) -> None:
        begun: list[tuple[float, int]] = []
        for mark in read_marks(path):
            self.first[role] = min(self.first.get(role, mark.begin), mark.begin)
            if mark.name == "process":
                self.hosts[role] = str(mark.facts.get("host"))
            elif mark.name == "clock":
                self.anchors.append((_seconds(mark, "clock_s"), mark.begin))
            elif mark.name == "full":
                self._note(f"{path.name} is full (run.spans_mib): later marks were dropped")
            elif mark.name == "goes_on" and mark.step is not None:
                begun.append((mark.begin, mark.step))
            elif mark.name == "step" and mark.step is not None and role == _ROLE_0:
                self.steps[mark.step] = (mark.begin, mark.end)  # the last life's counts
        undone = self.undone[role] = Undone(begun)
        if role == _ROLE_0:
            self.steps = {
                step: span for step, span in self.steps.items() if not undone.has(step, span[0])
            }

    def _say_what_is_missing(self) -> None:
        if self.begun_s is None:
            self._note("there is no journal: groups, queue and arrows are not drawn")
        elif not self.anchors:
            self._note("the broker's clock has no anchor (RUN/spans/broker.jsonl)")
        if not self.first:
            self._note(
                "there are no marks (RUN/spans; run.spans_mib = 0, or a run of before): a step's "
                "parts are in its details alone, generations and pushes have none"
            )

    def _tie_broker(self) -> None:
        """Without its own anchor the broker's clock is tied to the learner's marks."""
        if self.anchors or not self.first or self.begun_s is None:
            return
        shared = self.steps.keys() & self.acknowledged_s.keys()
        if shared:
            ends = (self.steps[step][1] - self.acknowledged_s[step] for step in shared)
            self.anchors.append((0.0, median(ends)))
            return
        self.begun_s = None
        self._note("nothing ties the journal to the marks: it is not drawn")

    def _tie_rows(self) -> None:
        """Place the rows of metrics, which count from the learner's start."""
        known: dict[int, float] = {}
        if self.begun_s is not None:
            known = {step: self.broker_wall(at) for step, at in self.acknowledged_s.items()}
        known |= {step: end for step, (_, end) in self.steps.items()}
        shared = self.rows.keys() & known.keys()
        if shared:
            self._rows_s = median(known[step] - self.rows[step].time_s for step in shared)
        elif self.first or self.begun_s is not None:
            self.rows.clear()  # nothing says when they were

    def _note(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)


def look_at(run: Path) -> Overview:
    """Look at a run, also while it goes on.

    Raises:
        ConfigError: no run is there, none that has begun, or its metrics.jsonl cannot be read.
    """
    if not run.is_dir():
        raise ConfigError(f"RUN = {str(run)!r} is no folder. Fix: name a run folder")
    found = Overview(run, mark_files(run), _step_rows(run / "metrics.jsonl"))
    found.look()
    if found.begun_s is None and not found.first and not found.rows:
        raise ConfigError(
            f"RUN = {str(run)!r} holds no journal, no marks (spans) and no metrics.jsonl: there is "
            "nothing to draw. Fix: name the folder of a run that has begun"
        )
    return found


def _seconds(mark: Mark, name: str) -> float:
    value = mark.facts.get(name, 0.0)
    return float(value) if isinstance(value, int | float) else 0.0


def _step_rows(path: Path) -> dict[int, StepRow]:
    return {int(row["step"]): _step_row(row) for row in read_rows(path) if "learner/step_s" in row}


def _step_row(row: Row) -> StepRow:
    parts = {
        name.removeprefix("time/").removesuffix("_s"): value
        for name, value in row.items()
        if name.startswith("time/") and value is not None
    }
    curves = {
        curve: {name.rpartition("/")[2]: row[name] for name in names if row.get(name) is not None}
        for curve, names in _CURVES.items()
    }
    step_s, wait_s = float(row["learner/step_s"]), float(row.get("learner/wait_batch_s") or 0.0)
    return StepRow(float(row["time_s"]), step_s, wait_s, parts, curves)
