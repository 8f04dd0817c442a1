"""FILE.toml of a study: which configurations are run, over which seeds, and what is compared."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, Field, ValidationError, model_validator

from common.config_cli import USAGE, toml_of
from common.errors import ConfigError
from common.section import Section
from deploy.study.columns import COLUMNS, DEFAULT_COLUMNS

Scalar = bool | int | float | str
Value = Scalar | tuple[Scalar, ...]  # of a configuration key
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"  # a part of a folder's name
_KEY = r"^[a-z_]+\.[a-z0-9_]+$"


def _flat(tree: Any) -> Any:
    """{"teacher": {"view": x}} as {"teacher.view": x}: TOML has it so without quotes."""
    if not isinstance(tree, dict):
        return tree
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        inner = value if isinstance(value, dict) else {"": value}
        flat |= {f"{key}.{name}" if name else key: found for name, found in inner.items()}
    return flat


Key = Annotated[str, Field(pattern=_KEY)]
Overrides = Annotated[dict[Key, Value], BeforeValidator(_flat)]
Axes = Annotated[
    dict[Key, Annotated[tuple[Value, ...], Field(min_length=1)]], BeforeValidator(_flat)
]


class StudySection(Section):
    name: str = Field(pattern=NAME, description="Name of the study and of its folder.")
    title: str = Field("", description="What it asks, in words.")
    config: Path = Field(description="Configuration file that every variant starts from.")
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**31)], ...] = Field(
        (0, 1, 2), min_length=1, description="Seeds; each variant is run with each of them."
    )
    baseline: str | Overrides | None = Field(
        None,
        description="The variant that others are compared with, seed by seed: its name, or values "
        "of [grid] that it has where the others are equal; none: the first variant.",
    )
    columns: tuple[str, ...] = Field(
        DEFAULT_COLUMNS, min_length=1, description=f"What is told: {', '.join(COLUMNS)}."
    )
    run_timeout_s: float | None = Field(
        None, gt=0, description="Seconds after which a run is stopped and counts as failed."
    )


class VariantSection(Section):
    title: str = Field("", description="What it is, in words; none: its name.")
    overrides: Overrides = Field({}, description='Such as {"teacher.view" = "full"}.')


class StudyFile(Section):
    study: StudySection
    variants: dict[Annotated[str, Field(pattern=NAME)], VariantSection] = Field(
        {}, description="Configurations by name."
    )
    grid: Axes = Field({}, description="Values by key; they multiply the variants.")

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if not self.variants and not self.grid:
            raise ValueError("there is nothing to run. Fix: add [variants.NAME] or [grid]")
        for column in self.study.columns:
            if column not in COLUMNS:
                raise ValueError(
                    f"study.columns: unknown column {column!r}. Fix: use {', '.join(COLUMNS)}"
                )
        for name, variant in self.variants.items():
            for key in variant.overrides.keys() & self.grid.keys():
                raise ValueError(
                    f"variants.{name} sets {key}, which [grid] varies. Fix: leave out one of them"
                )
        if len(set(self.study.seeds)) < len(self.study.seeds):
            raise ValueError(
                f"study.seeds = {list(self.study.seeds)}: one stands there twice. "
                "Fix: name each once"
            )
        return self


def word(value: Value) -> str:
    """The value as `--section.key WORD` takes it."""
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(word, value)) if isinstance(value, tuple) else str(value)


def read_study(path: Path) -> StudyFile:
    """Read a study's file.

    Raises:
        ConfigError: one line with file, key, value and fix.
    """
    tree = toml_of(path, str(path), "deploy/configs/studies/")
    try:
        found = StudyFile.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(f"{path}: {_first_problem(error)}") from None
    config = (path.parent / found.study.config).resolve()
    if not config.is_file():
        raise ConfigError(
            f"{path}: study.config = {str(found.study.config)!r}: there is no {config}. Fix: name "
            "a configuration, relative to this file"
        )
    study = found.study.model_copy(update={"config": config})
    return found.model_copy(update={"study": study})


def _first_problem(error: ValidationError) -> str:
    problem = error.errors(include_url=False)[0]
    location = [str(part) for part in problem["loc"]]
    where = ".".join(location)
    if not where:  # raised by StudyFile itself: the message has key, value and fix
        return str(problem["msg"]).removeprefix("Value error, ")
    if problem["type"] == "missing":
        return f"{where} is missing. Fix: add it. {_description(location)}".rstrip()
    if problem["type"] == "extra_forbidden":
        return f"unknown key {where}. Fix: use one of {', '.join(_siblings(location))}"
    fix = _description(location) or f"an override is a key and a value as in {USAGE}"
    return f"{where} = {problem['input']!r}: {problem['msg']}. Fix: see what it is for: {fix}"


def _model_of(location: list[str]) -> type[BaseModel]:
    """The model of the table that a key is in."""
    if location[0] == "study" and len(location) > 1:
        return StudySection
    return VariantSection if location[0] == "variants" and len(location) > 2 else StudyFile


def _siblings(location: list[str]) -> list[str]:
    return list(_model_of(location).model_fields)


def _description(location: list[str]) -> str:
    fields: Mapping[str, Any] = _model_of(location).model_fields
    key = next((part for part in location[1:] if part in fields), "")
    return str(fields[key].description or "") if key in fields else ""
