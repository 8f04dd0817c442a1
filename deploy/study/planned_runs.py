"""The runs of a study, and how far each has got, as its folder says.

OUT/VARIANT.seed-N is the run folder; beside it VARIANT.seed-N.json keeps the configuration that it
was started with, and VARIANT.seed-N.log what its launcher said.
"""

import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from common.config import RunConfig
from common.config_cli import dump_toml, load
from common.errors import ConfigError
from common.files import json_object_or_empty, replace_json
from deploy.options import absolute_paths
from deploy.showing.outcome import read_summary
from deploy.study.study_file import StudyFile, word
from deploy.study.variants import Variant

_ITS_OWN = {("run", "name"), ("run", "folder"), ("run", "resume")}  # of no consequence
Tree = dict[str, dict[str, Any]]


class State(Enum):
    NEW = "to be run"
    CUT_OFF = "to be gone on with"
    DONE = "done"
    CHANGED = "done or begun with another configuration"


@dataclass(frozen=True)
class Run:
    """One variant with one seed."""

    variant: Variant
    seed: int
    folder: Path  # of the run
    arguments: tuple[str, ...]  # of the launcher, for a run from the start
    config: RunConfig  # what they come to

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def record(self) -> Path:
        return self.folder.with_name(f"{self.name}.json")

    @property
    def log(self) -> Path:
        return self.folder.with_name(f"{self.name}.log")

    @property
    def resuming_arguments(self) -> tuple[str, ...]:
        return ("--config", str(self.folder / "config.toml"), "--run.resume", "true")


def planned_runs(
    study: StudyFile,
    variants: Iterable[Variant],
    seeds: Sequence[int],
    further: Sequence[str],
    file: Path,
    out: Path,
) -> list[Run]:
    """All variants with the first seed, then all with the next: an early look compares them all.

    Args:
        further: configuration arguments of every run.
        file: that the study was read from; paths in it are relative to its folder.
        out: folder of the study.

    Raises:
        ConfigError: a configuration is wrong; names the variant.
    """
    variants = list(variants)
    return [
        _planned(study, variant, seed, further, file, out.absolute())
        for seed in seeds
        for variant in variants
    ]


def _planned(
    study: StudyFile, variant: Variant, seed: int, further: Sequence[str], file: Path, out: Path
) -> Run:
    folder = out / f"{variant.name}.seed-{seed}"
    overrides = [
        part for key, value in variant.overrides.items() for part in (f"--{key}", word(value))
    ]
    base = ("--config", str(study.study.config))
    try:
        load((*base, *further, *overrides))  # before anything is asked of its keys
        arguments = (
            *base,
            *absolute_paths(further),
            *absolute_paths(overrides, file.absolute().parent),
            *("--run.seed", str(seed), "--run.folder", str(folder)),
        )
        return Run(variant, seed, folder, arguments, load(arguments))
    except ConfigError as error:
        raise ConfigError(f"{file}: variant {variant.name}: {error}") from None


# ---- how far each has got ------------------------------------------------------------------------
def state_of(run: Run) -> State:
    record = json_object_or_empty(run.record)
    has_begun = (run.folder / "config.toml").is_file()
    if not record or not has_begun:
        return State.NEW
    if differences(run):
        return State.CHANGED
    return State.DONE if _is_complete(run.folder) else State.CUT_OFF


def _is_complete(folder: Path) -> bool:
    summary = read_summary(folder)
    return summary is not None and not (summary.get("interrupted") or summary.get("data_fault"))


def differences(run: Run) -> list[str]:
    """What the run was started with that is another now, a line a key."""
    before: Tree = json_object_or_empty(run.record).get("config", {})
    return [
        f"{section}.{key} was {_shown(old)}, is {_shown(new)}"
        for section, key, old, new in _pairs(before, _tree(run.config), _tree(RunConfig()))
        if old != new and (section, key) not in _ITS_OWN
    ]


def _pairs(before: Tree, now: Tree, default: Tree) -> Iterable[tuple[str, str, Any, Any]]:
    """Pairs of values; a key that the code did not have then counts as its default."""
    for section, fields in now.items():
        for key, new in fields.items():
            yield section, key, before.get(section, {}).get(key, default[section][key]), new


def keep_record(run: Run) -> None:
    """Before it starts. Raises OSError."""
    run.folder.parent.mkdir(parents=True, exist_ok=True)
    document = {"arguments": list(run.arguments), "config": _tree(run.config)}
    replace_json(run.record, document)


def _tree(config: RunConfig) -> Tree:
    return tomllib.loads(dump_toml(config))


def _shown(value: Any) -> str:
    return word(tuple(value)) if isinstance(value, list) else word(value)
