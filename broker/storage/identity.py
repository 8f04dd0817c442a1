"""Facts that make a run this run, and the one that has changed since it began, by name. Pure."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from broker.ledger.entry import Rules
from common.errors import ConfigError
from common.source import SampleSource

FORMAT = 3  # version of the journal; see broker.ledger.commands
AMENDABLE = ("lease_s", "max_attempts", "max_steps", "max_leases")
_KEYS = {  # name in the journal -> key of the configuration
    "groups_per_step": "learner.groups_per_step",
    "max_staleness": "broker.max_staleness",
    "trajectories_per_sample": "rollout.trajectories_per_sample",
    "epochs": "data.epochs",
    "shuffle": "data.shuffle",
    "seed": "run.seed",
}
_NOTES = ("dataset", "num_samples")
_FIX = "or begin a new run: name another run.folder"


def facts_of(source: SampleSource, rules: Rules) -> dict[str, Any]:
    """Content of the journal's first record. Those of `notes_of` beside it are not compared."""
    return {"format": FORMAT, **asdict(rules), **source.facts()}


def notes_of(source: SampleSource, dataset: str) -> dict[str, Any]:
    """Notes for the message when the facts differ.

    Args:
        dataset: path of its file; empty: not known.
    """
    return {"dataset": dataset, "num_samples": len(source.samples)}


def check_same_run(then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Check that a resumed run is the one that its journal is of.

    Args:
        then: facts and notes as the journal has them; older ones have fewer notes.
        now: facts and notes of the configuration.

    Raises:
        ConfigError: another run; it names the key of the configuration, both values and the fix.
    """
    if then.get("format") != now["format"]:
        raise ConfigError(
            f"run.folder: its journal has format {then.get('format')!r}, this code writes "
            f"{now['format']}. Fix: go on with the version that began it, {_FIX}"
        )
    for name, key in _KEYS.items():
        if name in now:
            _check_same(key, then.get(name), now[name])
    shown = then.get("student", {})
    for name, value in now.get("student", {}).items():
        _check_same(f"student.{name}", shown.get(name), value)
    if then.get("samples") != now["samples"]:
        raise ConfigError(_other_data(then, now))
    for name, value in now.items():
        if name not in AMENDABLE and name not in _NOTES and then.get(name) != value:
            raise ConfigError(
                f"run.folder: its journal has {name} = {then.get(name)!r}, not {value!r}. "
                f"Fix: set it back, {_FIX}"
            )


def _check_same(key: str, then: Any, now: Any) -> None:
    if then != now:
        raise ConfigError(
            f"{key} = {_text(now)}, but the run in run.folder was begun with {_text(then)}. "
            f"Fix: --{key} {_text(then)}, {_FIX}"
        )


def _other_data(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    rows_then, rows_now = then.get("num_samples"), now.get("num_samples")
    rows = f"{'?' if rows_then is None else rows_then} usable rows then, {rows_now} now"
    if rows_then == rows_now:
        rows = f"{rows_now} usable rows as then, but others"
    before, path = then.get("dataset"), now.get("dataset")
    where = f"data.train = {str(path)!r}: " if path else "data.train: "
    what = "its content changed since the run began"
    if before and path and before != path:
        what = f"other samples than those of {before!r}, with which the run began"
    return f"{where}{what} ({rows}). Fix: bring it back as it was, {_FIX}"


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
