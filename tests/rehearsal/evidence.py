"""What a run left in its folder, read for the report. Nothing is changed."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from broker.storage.frames import Record, read_records
from common.dataset import read_samples
from common.journal_file import JOURNAL
from common.source import SampleSource
from common.types import Sample

_PROBE = re.compile(r"the probe agrees to (\S+) nats")
_SERVING = re.compile(r"serving version (\d+) after")
_WARNING = re.compile(r" WARNING +\S+ \S+: (.*)")
_REFUSAL = re.compile(r"left out|quarantined|refused|given back|not taken")
_GROUP = re.compile(r"^\d+/\d+ (?=given back)")  # one reason often stands for many groups


def step_rows(run: Path) -> list[dict[str, Any]]:
    """Rows of metrics.jsonl that tell of a trained step, whole lines alone."""
    path = run / "metrics.jsonl"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    rows = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
    return [row for row in rows if "learner/loss_nats" in row]


def last_step(run: Path) -> int:
    return max((int(row["step"]) for row in step_rows(run)), default=0)


def checkpoints(run: Path) -> list[Path]:
    """Whole ones, oldest first."""
    return sorted((run / "checkpoints").glob("step-*"))


def process_entry(run: Path, name: str) -> dict[str, Any]:
    """The entry in processes.json; KeyError where it is not there."""
    document = json.loads((run / "processes.json").read_text(encoding="utf-8"))
    return {entry["name"]: entry for entry in document["processes"]}[name]


def probe_differences(run: Path) -> list[float]:
    """Nats, of every verified push, as the rollout servers logged them."""
    return [float(found) for line in log_lines(run, "rollout-*") for found in _PROBE.findall(line)]


def verified_versions(run: Path) -> list[int]:
    """Weights that a rollout server took after a probe of them agreed; ascending, each once."""
    found: dict[int, None] = {}
    is_probed = False
    for line in log_lines(run, "rollout-*"):
        is_probed = is_probed or _PROBE.search(line) is not None
        if serving := _SERVING.search(line):
            if is_probed:
                found[int(serving.group(1))] = None
            is_probed = False
    return sorted(found)


def refusals(run: Path) -> list[str]:
    """Rows and groups that somebody would not have; the same words once, with how often."""
    lines = (*log_lines(run, "broker"), *log_lines(run, "learner-*"))
    warnings = [match.group(1) for line in lines if (match := _WARNING.search(line))]
    found = Counter(_GROUP.sub("", text) for text in warnings if _REFUSAL.search(text))
    return [f"{text} ({count} times)" if count > 1 else text for text, count in found.items()]


def log_lines(run: Path, stem: str) -> Iterator[str]:
    for path in sorted((run / "logs").glob(f"{stem}.log*")):
        yield from path.read_text(encoding="utf-8", errors="replace").splitlines()


def generated(run: Path, dataset: Path) -> tuple[list[Sample], list[int]]:
    """Samples whose groups the broker accepted, and the weight versions that these came from."""
    records = list(read_records((run / "journal" / JOURNAL).read_bytes()))
    submits = [r for r in records if r.command == "submit" and r.outcome == "accepted"]
    source = _source(records[0], dataset)
    samples = {r.arguments[1]: _sample(source, r.arguments[1]) for r in submits}
    versions = {version for r in submits for version in r.arguments[3][:2]}
    return list(samples.values()), sorted(versions)


def engine_pixels(log: Path) -> set[str]:
    """Digests of all pictures that the live engine showed its model; none without a log."""
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    return {json.loads(line)["sha256"] for line in lines}


def _source(begin: Record, dataset: Path) -> SampleSource:
    facts = dict(begin.arguments[0])
    samples, _ = read_samples(dataset)
    return SampleSource(
        samples, epochs=facts["epochs"], shuffle=facts["shuffle"], seed=facts["seed"]
    )


def _sample(source: SampleSource, group_id: str) -> Sample:
    epoch, _, position = group_id.partition("/")
    return source.at(int(epoch) * len(source.samples) + int(position)).sample
