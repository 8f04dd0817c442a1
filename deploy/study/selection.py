"""Which runs of a study a command asks for, and which it must not."""

import difflib
import fnmatch
from collections.abc import Sequence

from common.errors import ConfigError
from deploy.study.planned_runs import Run, State, differences, state_of
from deploy.study.study_file import StudyFile
from deploy.study.variants import Variant


def with_seeds(study: StudyFile, count: int | None, first: int | None) -> StudyFile:
    """With so many seeds from the first on. None means as many as the file has.

    Raises:
        ConfigError: no such seeds.
    """
    if count is None and first is None:
        return study
    count = len(study.study.seeds) if count is None else count
    first = study.study.seeds[0] if first is None else first
    if count < 1 or first < 0:
        raise ConfigError(f"--seeds {count} --first-seed {first}. Fix: at least 1, and 0 or more")
    seeds = tuple(range(first, first + count))
    return study.model_copy(update={"study": study.study.model_copy(update={"seeds": seeds})})


def check_further(variants: Sequence[Variant], further: Sequence[str]) -> None:
    """Arguments of every run do not undo what makes a variant. Raises ConfigError."""
    given = {argument.partition("=")[0].removeprefix("--") for argument in further}
    for variant in variants:
        for key in given & variant.overrides.keys():
            raise ConfigError(
                f"--{key}: variant {variant.name} is told apart by it. Fix: leave it out here"
            )


def selected(variants: Sequence[Variant], only: str | None) -> set[str]:
    """Names of variants.

    Args:
        only: names or patterns, with commas. None means all of them.

    Raises:
        ConfigError: nothing has such a name.
    """
    names = [variant.name for variant in variants]
    if only is None:
        return set(names)
    wanted: set[str] = set()
    for pattern in only.split(","):
        found = fnmatch.filter(names, pattern)
        if not found:
            close = difflib.get_close_matches(pattern, names, n=1, cutoff=0.5)
            fix = f"did you mean {close[0]}?" if close else f"use some of {', '.join(names)}"
            raise ConfigError(f"--only {pattern}: no such variant. Fix: {fix}")
        wanted.update(found)
    return wanted


def check_unchanged(runs: Sequence[Run]) -> None:
    """Each has the configuration that it was begun with. Raises ConfigError."""
    changed = [run for run in runs if state_of(run) is State.CHANGED]
    if not changed:
        return
    told = "".join(f"\n  {run.name}: {'; '.join(differences(run))}" for run in changed)
    raise ConfigError(
        f"{len(changed)} runs had another configuration:{told}\nFix: --again deletes and repeats "
        "them; --out DIR keeps them and makes all runs elsewhere"
    )
