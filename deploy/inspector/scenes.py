"""The held-out scenes of a run: RUN/scenes.json, with the pictures that it names."""

import os
import stat
from pathlib import Path
from typing import Any

from common.errors import DataError
from common.files import json_object_or_empty
from deploy.inspector.query import number_of

_FILES = {"full": "image", "crop": "crop"}  # the key of a scene that names the file, by view
_MAX_BYTES = 256 * 2**20


def scenes(run: Path) -> dict[str, Any]:
    """The answer of `scenes`: pictures are asked for by the scene's place in the list."""
    return {"scenes": [_shown(scene) for scene in _all(run)]}


def scene_picture(run: Path, scene: str, view: str) -> bytes:
    """The file of a scene's picture.

    Args:
        scene: its place in the list.
        view: "full" or "crop".

    Raises:
        ConfigError: no place in a list.
        DataError: there is no such scene, or its picture is gone.
    """
    found, number = _all(run), number_of("scene", scene)
    if not (number < len(found) and view in _FILES):
        raise DataError(f"scene {scene!r}, view {view!r}: there is none. Fix: ask for `scenes`")
    path = Path(str(found[number].get(_FILES[view])))
    kept = run / "scenes" / path.name  # the run may have been moved since it named the file
    path = kept if view == "crop" and kept.is_file() else path
    try:
        return _content(path)
    except (OSError, ValueError) as error:
        why = str(error) if type(error) is ValueError else type(error).__name__
        raise DataError(f"{path} cannot be read: {why}. Was it moved?") from None


def _content(path: Path) -> bytes:
    """What a file holds.

    Raises:
        OSError: it cannot be read.
        ValueError: it is too large, or something else, which may never end.
    """
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_BYTES:
            raise ValueError("no file, or too large")
        return file.read(_MAX_BYTES)


def _all(run: Path) -> list[dict[str, Any]]:
    found = json_object_or_empty(run / "scenes.json").get("scenes")
    return [scene for scene in found if isinstance(scene, dict)] if isinstance(found, list) else []


def _shown(scene: dict[str, Any]) -> dict[str, Any]:
    keys = ("sample_id", "question", "reference_answer", "box", "image_size", "before", "after")
    return {key: scene.get(key) for key in keys}
