"""The file path of a push: a Hugging Face folder a version, in a folder that all machines share."""

import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from common.files import sha256_of_file
from common.served_names import pushed_name
from common.types import WeightFiles
from learner.push.buckets import Snapshot

_KEPT = 3  # versions: a slow server may still read the one before


class WeightFolder:
    """Writes each version beside and renames it, so that what has its name is whole.

    What an earlier life of the learner wrote is removed.

    Args:
        model: whose configuration goes along.
    """

    def __init__(self, folder: Path, model: Any) -> None:
        self._folder = folder
        self._model = model
        self._written: list[Path] = []
        for leftover in [*folder.glob("version-*"), *folder.glob(".version-*.part")]:
            shutil.rmtree(leftover, ignore_errors=True)
        self._own_names = {pushed_name(name): name for name in model.state_dict()}

    def write(self, name: str, snapshot: Snapshot) -> WeightFiles:
        """As `save_pretrained` writes it: transformers and SGLang both read that.

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
