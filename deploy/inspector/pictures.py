"""Pictures of a run's samples as student and teacher saw them: the same 8-bit pixels."""

import functools
import io
from pathlib import Path
from typing import Literal, NamedTuple

from PIL import Image

from common.config import RunConfig
from common.config_cli import load
from common.dataset_lookup import find_sample
from common.errors import ConfigError, DataError
from common.images import ImageStore
from common.pictures import DECODE_ERRORS, encode_png, reason_of
from common.types import Sample
from common.views.registry import view_named
from common.views.settings import ViewSettings
from common.views.showing import derived_seed, seed_for

Name = Literal["full", "student", "teacher"]
_CONFIGURATIONS = 4
_JPEG_QUALITY = 85


class _Found(NamedTuple):
    sample: Sample
    folder: Path  # that paths in the sample are relative to
    settings: ViewSettings  # of who is shown it


def picture(
    run: Path,
    sample_id: str,
    view: Name,
    group_id: str | None = None,
    longest_side: int | None = None,
) -> tuple[bytes, str]:
    """A picture of a sample, and its media type.

    Args:
        run: its folder.
        view: "full": the whole picture of the row; else what that model is shown.
        group_id: the group that was trained, on which depends what is drawn. None means a sample
            that measures, if there is one of that name: nothing is drawn then.
        longest_side: in pixels; a larger picture is made smaller, and a JPEG. None means the very
            pixels, as a PNG.

    Raises:
        ConfigError: the run's configuration cannot be read.
        DataError: sample or picture is gone, has changed or cannot be shown; the message says so.
    """
    config = _config(run)
    sample, folder, settings = _find(config, sample_id, group_id is None)
    names = {"full": "full", "student": settings.student, "teacher": settings.teacher}
    kind = view_named(names[view])
    seed = 0 if group_id is None else derived_seed(config.run.seed, group_id)
    opened = ImageStore(folder, cache_bytes=0).open(kind.source(sample))
    try:
        shown = kind.picture(opened, sample, settings, seed_for(kind, seed))
        if longest_side is not None and max(shown.size) > longest_side:
            return _small_jpeg(shown, longest_side), "image/jpeg"
        return encode_png(shown), "image/png"
    except DataError:
        raise
    except DECODE_ERRORS as error:
        raise DataError(f"sample {sample_id} cannot be shown: {reason_of(error)}") from error


def _config(run: Path) -> RunConfig:
    file = run / "config.toml"
    try:
        return _loaded(file.absolute(), file.stat().st_mtime_ns)
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}. Fix: restore it") from error


@functools.lru_cache(maxsize=_CONFIGURATIONS)
def _loaded(file: Path, mtime_ns: int) -> RunConfig:
    return load(["--config", str(file)])


def _find(config: RunConfig, sample_id: str, is_measured_first: bool) -> _Found:
    settings = ViewSettings.of(config)
    places = [(config.data.train, settings)]
    if is_measured_first:
        places.insert(0, (config.data.heldout, settings.measuring()))
    files = [(path, of_view) for path, of_view in places if path is not None]
    problem: DataError | None = None
    for path, of_view in files:
        try:
            sample = find_sample(path, sample_id)
        except DataError as error:  # the other file may have it
            problem = error
            continue
        if sample is not None:
            return _Found(sample, path.parent, of_view)
    if problem is not None:
        raise problem
    names = " and ".join(str(path) for path, _ in files) or "data.train, which is not set,"
    raise DataError(
        f"sample {sample_id} is not in {names} any more. Fix: bring the file back as the run had it"
    )


def _small_jpeg(shown: Image.Image, longest_side: int) -> bytes:
    small = shown.copy()
    small.thumbnail((longest_side, longest_side))
    content = io.BytesIO()
    small.save(content, "JPEG", quality=_JPEG_QUALITY)
    return content.getvalue()
