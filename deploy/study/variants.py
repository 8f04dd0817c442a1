"""The variants of a study: those that it names, multiplied by its grid."""

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from common.errors import ConfigError
from deploy.study.study_file import StudyFile, Value, VariantSection, word


@dataclass(frozen=True)
class Variant:
    name: str  # part of a folder's name
    title: str
    overrides: Mapping[str, Value]
    point: Mapping[str, Value] = field(default_factory=dict)  # of the grid
    family: str = ""  # the named variant that the grid was laid over


def variants_of(study: StudyFile) -> list[Variant]:
    """In the file's order, the last axis of the grid fastest.

    Raises:
        ConfigError: two have one name.
    """
    shorts = _short_keys(study.grid)
    variants = [
        _variant(name, section.title, section.overrides, point, shorts)
        for name, section in (study.variants or {"": VariantSection()}).items()
        for point in points(study.grid)
    ]
    names = [variant.name for variant in variants]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"two variants would be called {name}. Fix: name one otherwise")
    return variants


def points(grid: Mapping[str, tuple[Value, ...]]) -> Iterator[dict[str, Value]]:
    """Every combination of one value an axis; {} alone without axes."""
    for values in itertools.product(*grid.values()):
        yield dict(zip(grid, values, strict=True))


def baselines(study: StudyFile, variants: Iterable[Variant]) -> dict[str, str]:
    """The name of each variant's baseline, by its name.

    Raises:
        ConfigError: there is no such variant or value of the grid.
    """
    known = list(variants)
    wanted = study.study.baseline
    if wanted is None:
        wanted = known[0].name
    if isinstance(wanted, str):
        _check_known(wanted, [variant.name for variant in known])
        return {variant.name: wanted for variant in known}
    _check_axes(wanted, study.grid)
    return {variant.name: _of_same_kind(variant, wanted, known).name for variant in known}


def _of_same_kind(variant: Variant, wanted: Mapping[str, Value], known: list[Variant]) -> Variant:
    point = {**variant.point, **wanted}
    return next(v for v in known if v.family == variant.family and dict(v.point) == point)


def _check_known(name: str, names: list[str]) -> None:
    if name not in names:
        raise ConfigError(
            f"study.baseline = {name!r}: no such variant. Fix: use one of {', '.join(names)}"
        )


def _check_axes(wanted: Mapping[str, Value], grid: Mapping[str, tuple[Value, ...]]) -> None:
    for key, value in wanted.items():
        if value not in grid.get(key, ()):
            raise ConfigError(
                f"study.baseline: {key} = {word(value)} is no value of [grid]. Fix: use one that "
                f"is: {', '.join(f'{k} = {word(v)}' for k, vs in grid.items() for v in vs)}"
            )


def _variant(
    name: str,
    title: str,
    overrides: Mapping[str, Value],
    point: dict[str, Value],
    shorts: Mapping[str, str],
) -> Variant:
    parts = [(shorts[key], word(value)) for key, value in point.items()]
    full_name = "+".join([*filter(None, [name]), *(f"{key}={_safe(text)}" for key, text in parts)])
    words = [*filter(None, [title or name]), *(f"{key} {text}" for key, text in parts)]
    return Variant(full_name, ", ".join(words), {**overrides, **point}, point, name)


def _short_keys(keys: Iterable[str]) -> dict[str, str]:
    """Keys without their sections, where no two become the same."""
    keys = list(keys)
    lasts = [key.rpartition(".")[2] for key in keys]
    return {
        key: last if lasts.count(last) == 1 else key for key, last in zip(keys, lasts, strict=True)
    }


def _safe(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "-", text)
