"""Vision-OPD-6K as it is published: train.jsonl, with its pictures beside it or in archives."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from common.errors import ConfigError
from common.prepare import published_form
from common.prepare.hint import without_hint
from common.prepare.source import SourceRow
from common.prepare.tables import FileRow

DATASET = "yuanqianhao/Vision-OPD-6K"
REVISION = "eb5c1c2e7b9a7b6a619efe4161c7369c71bf8af4"
FILES = (published_form.FILE, "*images/*")
StudentPicture = Literal["red_box", "clean"]


@dataclass(frozen=True)
class PublishedRows:
    """The rows of the published set, with the folders of its pictures.

    Args:
        file: train.jsonl.
        folders: pictures are looked for there, in this order.
        picture: the student's: with the red box and the sentence about it, or without both.
    """

    file: Path
    folders: tuple[Path, ...]
    picture: StudentPicture = "red_box"
    num_rows: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict)

    def entries(self) -> Iterator[FileRow]:
        """Lines as they are. Raises ConfigError."""
        try:
            with self.file.open(encoding="utf-8-sig", errors="surrogateescape") as lines:
                for number, line in enumerate(lines, start=1):
                    if line.strip():
                        yield FileRow(f"{self.file} line {number}", number, {"line": line})
        except OSError as error:
            raise ConfigError(f"{self.file}: {error}. Fix: restore it") from error

    def source_row(self, entry: FileRow) -> SourceRow:
        """Read one line; BadField if it will not do."""
        assert not isinstance(entry.cells, str)
        row = published_form.source_row(entry.cells["line"], entry.number, Path(), self.picture)
        assert isinstance(row.image, Path) and isinstance(row.crop, Path)
        image, crop = self._found(row.image), self._found(row.crop)
        problem = row.problem if self.picture == "red_box" else without_hint(row.problem)
        return replace(row, image=image, crop=crop, problem=problem)

    def notes(self) -> list[str]:
        return []

    def _found(self, path: Path) -> Path:
        """The path in the first folder that has it."""
        there = (folder / path for folder in self.folders)
        return next((p for p in there if p.exists()), self.folders[-1] / path)


def published_rows(
    folder: Path, unpacked: Path | None = None, picture: StudentPicture = "red_box"
) -> PublishedRows:
    """Open the published set in a folder.

    Args:
        folder: has train.jsonl and pictures.
        unpacked: a second folder with pictures.

    Raises:
        ConfigError: there is no train.jsonl.
    """
    path = folder / published_form.FILE
    try:
        with path.open("rb") as file:
            num_rows = sum(1 for line in file if line.strip())
    except OSError as error:
        fix = f"name the folder with {published_form.FILE} and its pictures"
        raise ConfigError(f"--from {folder}: {error}. Fix: {fix}") from None
    folders = (folder,) if unpacked is None else (unpacked, folder)
    return PublishedRows(path, folders, picture, num_rows)
