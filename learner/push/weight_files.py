"""The file path of a push: a Hugging Face folder a version, in a folder that all machines share."""

import json
import re
import shutil
from pathlib import Path

from safetensors import SafetensorError

from common.config import WeightsSection
from common.errors import ConfigError
from common.files import replace_json, sha256_of_file
from common.image_text_model import ImageTextModel
from common.served_names import pushed_name
from common.types import WeightFiles
from learner.push.buckets import Snapshot

_MARK = "vision-opd-weights.json"  # says whose the folder is
_OURS = re.compile(r"\.?version-\d{6,}-\d+(\.part)?|\.?" + re.escape(_MARK) + r"(\.part)?")
_KEPT = 3  # versions: a slow server may still read the one before


class WeightFolder:
    """The folder that pushes are written to; a version gets its name when it is whole.

    What an earlier life of the learner wrote is removed, and nothing else: the folder is this run's
    alone, which a file in it says.

    Args:
        model: its configuration is written along.
        owner: the run.

    Raises:
        ConfigError: something else is in the folder, it is another run's, or cannot be written.
    """

    def __init__(self, folder: Path, model: ImageTextModel, owner: str) -> None:
        self._folder = folder
        self._model = model
        self._written: list[Path] = []
        try:
            _claim(folder, owner)
        except OSError as error:
            raise ConfigError(
                f"weights.folder = {str(folder)!r}: {error.strerror}. Fix: name a folder that the "
                "learner can write"
            ) from error
        for leftover in [*folder.glob("version-*"), *folder.glob(".version-*.part")]:
            shutil.rmtree(leftover, ignore_errors=True)  # it follows no links
        self._own_names = {pushed_name(name): name for name in model.state_dict()}

    def write(self, name: str, snapshot: Snapshot) -> WeightFiles:
        """Write a version as `save_pretrained` does, which transformers and SGLang both read.

        Raises:
            OSError: the folder cannot be written.
        """
        final = self._folder / name
        part = self._folder / f".{name}.part"
        part.mkdir(parents=True)
        tensors = {self._own_names[name]: t for name, t in snapshot.tensors().items()}
        try:
            self._model.save_pretrained(part, state_dict=tensors)
        except SafetensorError as error:  # a full disk, for instance
            raise OSError(f"{part}: {error}") from error
        sha256 = {path.name: sha256_of_file(path) for path in sorted(part.iterdir())}
        part.rename(final)
        self._forget_old(final)
        return WeightFiles(folder=str(final.absolute()), sha256=sha256)

    def _forget_old(self, newest: Path) -> None:
        self._written.append(newest)
        while len(self._written) > _KEPT:
            shutil.rmtree(self._written.pop(0), ignore_errors=True)


def weight_folder(
    config: WeightsSection, run_folder: Path, model: ImageTextModel
) -> WeightFolder | None:
    """Where pushes go as files; None means that they go through a group."""
    if config.transport == "broadcast":
        return None
    folder = config.folder or run_folder / "weights"
    return WeightFolder(folder, model, str(run_folder.absolute()))


def _claim(folder: Path, owner: str) -> None:
    """Make the folder this run's. Raises ConfigError, and OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    mark = folder / _MARK
    others = sorted(path.name for path in folder.iterdir() if path != mark)
    if mark.exists():
        _check_owner(mark, owner)
        others = [name for name in others if not _OURS.fullmatch(name)]
    if others:
        raise ConfigError(
            f"weights.folder = {str(folder)!r} holds {others[0]!r}, which this run did not write: "
            "old versions are deleted there. Fix: name a new or empty folder"
        )
    replace_json(mark, {"run": owner})


def _check_owner(mark: Path, owner: str) -> None:
    try:
        found = json.loads(mark.read_text(encoding="utf-8"))["run"]
    except (ValueError, KeyError, TypeError):
        found = "unknown"
    if found != owner:
        raise ConfigError(
            f"weights.folder = {str(mark.parent)!r} belongs to the run {found}. Fix: name a folder "
            "of this run's own, or remove that one"
        )
