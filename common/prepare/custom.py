"""A person's own rows: what their columns and boxes mean, found once for the whole set."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from common.bad_rows import BadField
from common.dataset_files import schema
from common.errors import ConfigError, DataError
from common.parquet_rows import Unreadable
from common.pictures import header_size_of
from common.prepare.boxes import PIXELS, BoxForm, BoxTally
from common.prepare.columns import (
    Columns,
    answer_in,
    box_in,
    cell,
    columns_of,
    name_in,
    picture_in,
    question_in,
)
from common.prepare.hint import with_hint
from common.prepare.source import PictureSource, SourceRow
from common.prepare.tables import FileRow, TableSurvey, as_column, entries, survey

_OURS = frozenset(schema().names)


@dataclass(frozen=True)
class Wishes:
    """What a person says of the rows; what is not said is looked for."""

    columns: Mapping[str, str]
    box_units: str = "auto"
    box_form: str = "auto"
    hint: bool = False


@dataclass(frozen=True)
class CustomRows:
    """A set of rows of which everything is known but the rows themselves."""

    files: tuple[Path, ...]
    folder: Path  # paths of pictures are relative to it
    columns: Columns
    box_form: BoxForm
    hint: bool
    extra: Mapping[str, Any]  # types of pyarrow of the columns that are kept
    num_rows: int

    def entries(self) -> Iterator[FileRow]:
        return entries(self.files)

    def source_row(self, entry: FileRow) -> SourceRow:
        """Read the cells of one row; BadField if one will not do."""
        assert not isinstance(entry.cells, str)
        cells, columns = entry.cells, self.columns
        question = question_in(cell(cells, columns.question), columns.question)
        crop = cell(cells, columns.crop)
        return SourceRow(
            sample_id=name_in(cell(cells, columns.id), columns.id or "id", entry.number),
            problem=with_hint(question) if self.hint else question,
            image=picture_in(cell(cells, columns.picture), columns.picture, self.folder),
            crop=None if not crop else picture_in(crop, columns.crop or "crop", self.folder),
            box=box_in(cell(cells, columns.box), columns.box or "box"),
            answer=answer_in(cell(cells, columns.answer), columns.answer or "answer"),
            fields=(columns.picture, columns.crop or "crop", columns.box or "box"),
            box_form=self.box_form,
            extra={name: self._kept(cells, name) for name in self.extra},
        )

    def _kept(self, cells: Mapping[str, Any], name: str) -> Any:
        value = cells.get(name)
        if isinstance(value, Unreadable):
            raise BadField(name, value, "cannot be read", "write it anew, or drop the column")
        return as_column(value, self.extra[name])

    def notes(self) -> list[str]:
        """What was taken for what, for people."""
        boxes = [] if self.columns.box is None else [f"boxes: {self.box_form}"]
        kept = [f"kept beside them: {', '.join(self.extra)}"] if self.extra else []
        return [f"columns: {self.columns}", *boxes, *kept]


def custom_rows(files: Sequence[Path], folder: Path, wishes: Wishes) -> CustomRows:
    """Open own rows: find out once what their columns and boxes mean.

    Args:
        files: the files of rows, all of one form (`tables.table_files`).
        folder: paths of pictures are relative to it.

    Raises:
        ConfigError: a file cannot be read, columns cannot be told, boxes may mean several things.
    """
    if not folder.is_dir():
        raise ConfigError(f"--images {folder}: no folder. Fix: name the folder of the pictures")
    found = survey(files)
    columns = columns_of(list(found.types), wishes.columns)
    return CustomRows(
        files=tuple(files),
        folder=folder,
        columns=columns,
        box_form=_box_form(files, folder, columns, wishes),
        hint=wishes.hint,
        extra=_extra(found, columns),
        num_rows=found.num_rows,
    )


def _extra(found: TableSurvey, columns: Columns) -> dict[str, Any]:
    """The types of the columns that are kept: ours are measured anew."""
    taken = _OURS | columns.used
    return {name: type_ for name, type_ in found.types.items() if name not in taken}


def _box_form(files: Sequence[Path], folder: Path, columns: Columns, wishes: Wishes) -> BoxForm:
    if columns.box is None:
        return PIXELS
    if "auto" not in (wishes.box_units, wishes.box_form):
        return BoxForm(wishes.box_units, wishes.box_form)
    tally = BoxTally(wishes.box_units, wishes.box_form)
    read = sorted({columns.box.partition(".")[0], columns.picture.partition(".")[0]})
    for entry in entries(files, read):
        if isinstance(entry.cells, str):
            continue
        try:
            box = box_in(cell(entry.cells, columns.box), columns.box)
            if box is not None:
                where = picture_in(cell(entry.cells, columns.picture), columns.picture, folder)
                tally.add(box, _size_of(where))
        except (DataError, OSError, ValueError):
            continue  # the row is refused later, with its reason
    return tally.decided() if tally.boxes else PIXELS


def _size_of(source: PictureSource) -> tuple[int, int]:
    if isinstance(source, bytes):
        return header_size_of(BytesIO(source))
    if not source.is_file():  # a pipe would be waited for
        raise DataError(f"{source}: no file")
    with source.open("rb") as opened:
        return header_size_of(opened)
