"""The held-out scenes of a run: RUN/scenes.json, with the pictures that it names."""

from pathlib import Path
from typing import Any

from common.errors import DataError
from common.files import json_object_or_empty

_FILES = {"full": "image", "crop": "crop"}  # the key of a scene that names the file, by view


def scenes(run: Path) -> dict[str, Any]:
    """The answer of `scenes`: pictures are asked for by the scene's place in the list."""
    return {"scenes": [_shown(scene) for scene in _all(run)]}


def scene_picture(run: Path, scene: str, view: str) -> bytes:
    """The file of a scene's picture.

    Args:
        scene: its place in the list.
        view: "full" or "crop".

    Raises:
        DataError: there is no such scene, or its picture is gone.
    """
    found = _all(run)
    if not (scene.isascii() and scene.isdigit() and int(scene) < len(found) and view in _FILES):
        raise DataError(f"scene {scene!r}, view {view!r}: there is none. Fix: ask for `scenes`")
    path = Path(str(found[int(scene)].get(_FILES[view])))
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {type(error).__name__}. Was it moved?") from None


def _all(run: Path) -> list[dict[str, Any]]:
    found = json_object_or_empty(run / "scenes.json").get("scenes")
    return [scene for scene in found if isinstance(scene, dict)] if isinstance(found, list) else []


def _shown(scene: dict[str, Any]) -> dict[str, Any]:
    keys = ("sample_id", "question", "reference_answer", "box", "image_size", "before", "after")
    return {key: scene.get(key) for key in keys}
