"""A result as it stands on a disk: what `rollout.evaluation.results` writes, read and checked."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from common.dataset_paths import leaves
from common.errors import ConfigError

FILE = "result.json"
OUTCOMES = ("right", "wrong", "undecided", "failed")
_MAX_PICTURE_BYTES = 2**20


class _Stored(BaseModel):
    """A part of result.json; later versions may add fields."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class StoredFigure(_Stored):
    """A number of a set, in 0..1."""

    value: float
    right: int | None = None  # None means that it is no share of items
    of: int | None = None
    low: float | None = None  # 95 %; None means that no interval is known
    high: float | None = None


class StoredItem(_Stored):
    """One question, and what became of it."""

    id: str
    outcome: Literal["right", "wrong", "undecided", "failed"]
    cut: bool  # the length limit ended the reply
    answer: str
    said: str | None  # what was understood
    reply: str | None
    question: str
    judged: bool = False  # a judge decided, not a rule
    error: str | None = None  # why the request failed
    picture: str | None = None  # relative to the result's folder
    fields: Mapping[str, str] = {}  # category and the like


class StoredSet(_Stored):
    """One set of a result."""

    title: str | None = None
    figures: Mapping[str, StoredFigure]
    headline: str  # the figure that the paper's tables give
    failed: int
    cut: int
    undecided: int
    items: tuple[StoredItem, ...]

    @property
    def headline_figure(self) -> StoredFigure | None:
        return self.figures.get(self.headline)


class StoredResult(_Stored):
    """What RESULT/result.json holds."""

    format: Literal[1]
    model: str
    view: str
    identity: Mapping[str, Any]
    sets: Mapping[str, StoredSet]
    started: str | None = None  # ISO 8601
    seconds: float | None = None


def read_result(folder: Path) -> StoredResult:
    """The result in a folder.

    Raises:
        ConfigError: there is none, or one that this version cannot read.
    """
    path = folder / FILE
    try:
        return StoredResult.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ConfigError(
            f"{path}: {error.strerror}. Fix: name the folder of a finished evaluation"
        ) from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"])) or "the file"
        raise ConfigError(
            f"{path}: {field}: {first['msg']}. Fix: measure again, with this version"
        ) from None


def picture_bytes(folder: Path, item: StoredItem) -> bytes | None:
    """The small picture of an item; None where there is none, or where it is not in the folder."""
    if item.picture is None or leaves(item.picture, folder):
        return None
    path = folder / item.picture
    try:
        if not path.is_file() or path.stat().st_size > _MAX_PICTURE_BYTES:
            return None
        return path.read_bytes()
    except (OSError, ValueError):  # ValueError: of a path that is none
        return None
