"""What a rehearsal found: facts and checks, as JSON and as a page for people. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

_Cells = Sequence[object]


@dataclass(frozen=True)
class Stage:
    """One part of the rehearsal."""

    name: str
    seconds: float
    said: str  # what came of it, in a line


@dataclass(frozen=True)
class Check:
    """What must be true, and what was seen."""

    name: str
    is_good: bool
    said: str


@dataclass
class Report:
    """Grows while the rehearsal goes on; what it did not get to stays empty."""

    stages: list[Stage] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    settings: dict[str, str] = field(default_factory=dict)  # what differs from the published run
    versions: dict[str, str] = field(default_factory=dict)
    prompt_tail: str = ""
    steps: list[dict[str, Any]] = field(default_factory=list)  # rows of metrics.jsonl
    pixels: list[dict[str, Any]] = field(default_factory=list)  # sample_id, learner, engine
    probes: list[float] = field(default_factory=list)  # nats, of each verified push
    verified_versions: list[int] = field(default_factory=list)
    weight_versions: list[int] = field(default_factory=list)  # that trajectories came from
    refused: list[str] = field(default_factory=list)
    answer: dict[str, Any] = field(default_factory=dict)

    @property
    def is_good(self) -> bool:
        return bool(self.checks) and all(check.is_good for check in self.checks)

    def check(self, name: str, is_good: bool, said: object) -> None:
        self.checks.append(Check(name, is_good, str(said)))

    def as_json(self) -> dict[str, Any]:
        return {"is_good": self.is_good, **asdict(self)}


# Of a step's row in metrics.jsonl, and what it is called on the page. A key may be missing.
STEP_COLUMNS = (
    ("step", "step"),
    ("drift/mean_nats", "mean nats"),
    ("drift/max_nats", "largest nats"),
    ("learner/mismatch_kl_nats", "KL nats"),
    ("learner/mismatch_kl_worst_nats", "KL of the worst sample"),
    ("learner/mismatch_worst_sample", "worst sample"),
    ("learner/ratio_mean", "ratio"),
    ("learner/tokens", "tokens"),
    ("learner/refused_groups", "refused"),
)


def page(report: Report) -> str:
    """Markdown."""
    verdict = "every check holds" if report.is_good else "NOT GOOD"
    failed = [check for check in report.checks if not check.is_good]
    parts = [
        f"# Rehearsal: {verdict}",
        *(f"- **{check.name}**: {check.said}" for check in failed),
        "\n## Stages\n",
        table(("stage", "s", "outcome"), ((s.name, s.seconds, s.said) for s in report.stages)),
        "\n## Checks\n",
        table(
            ("check", "", "seen"),
            ((c.name, "ok" if c.is_good else "FAILED", c.said) for c in report.checks),
        ),
        "\n## Log-probs of rollout against learner, by step\n",
        table([name for _, name in STEP_COLUMNS], map(_step_cells, report.steps)),
        f"\n## Prompt\n\nThe rendered prompt ends in `{report.prompt_tail!r}`.",
        "\n## Pixels\n",
        table(("sample", "learner", "engine"), map(_pixel_cells, report.pixels)),
        "\n## Pushes\n",
        f"Verified versions: {report.verified_versions or 'none'}; mean differences of the probes "
        "(nats): " + (", ".join(f"{nats:.2g}" for nats in report.probes) or "none"),
        f"\nWeight versions that trajectories came from: {report.weight_versions or 'none'}",
        "\n## What was refused\n",
        "\n".join(f"- {line}" for line in report.refused) or "nothing",
        "\n## Answer of the served export\n",
        table(("what", "value"), report.answer.items()),
        "\n## Versions\n",
        table(("package", "version"), report.versions.items()),
        "\n## What differs from the published configuration\n",
        table(("key", "value"), report.settings.items()),
    ]
    return "\n".join(parts) + "\n"


def table(head: Sequence[str], rows: Iterable[_Cells]) -> str:
    """A Markdown table; a number is given with four digits."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return " ".join(text.split()).replace("|", "\\|")


def _step_cells(row: dict[str, Any]) -> list[object]:
    return [row.get(key) for key, _ in STEP_COLUMNS]


def _pixel_cells(row: dict[str, Any]) -> list[object]:
    return [row["sample_id"], row["learner"][:16], (row["engine"] or "-")[:16]]
