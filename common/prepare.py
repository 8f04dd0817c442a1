"""Makes a dataset of ours from data as others have it.

    python -m common.prepare FORM --from FOLDER --out DIR

Forms:
    vision-opd-6k    FOLDER/train.jsonl and its pictures, as published

DIR/train.parquet is what data.train takes; DIR/pictures has the files, linked or copied, unchanged.
A row that cannot be used is left out and named in DIR/left_out.txt, with what would mend it.
Exit code 1: no row was good. The Parquet file is written last, so it is whole or not there.
"""

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from common import published_form
from common.bad_rows import BadField
from common.dataset_files import Row, SourceRow, dataset_row, write_rows
from common.errors import ConfigError, DataError, VisionOpdError, exit_code_of
from common.files import replace_text
from common.output import ends_with_its_reader
from common.picture_grid import check_shape

PARQUET = "train.parquet"
LEFT_OUT = "left_out.txt"
_SHOWN = 20  # bad rows on the terminal; the file has all of them
_Entry = tuple[str, SourceRow | BadField]  # where it stands, and what stands there


@dataclass(frozen=True)
class Prepared:
    """What became of a source's rows."""

    rows: list[Row]
    left_out: list[str]  # a line for each, in their order


def main(argv: Sequence[str] | None = None) -> None:
    options = _arguments(argv)
    try:
        prepared = prepare(options.form, options.source, options.out)
    except VisionOpdError as error:
        print(f"cannot prepare: {error}", file=sys.stderr)
        raise SystemExit(exit_code_of(error)) from None
    for line in prepared.left_out[:_SHOWN]:
        print(f"left out: {line}", file=sys.stderr)
    if len(prepared.left_out) > _SHOWN:
        more = len(prepared.left_out) - _SHOWN
        print(f"and {more} more, see {options.out / LEFT_OUT}", file=sys.stderr)
    print(f"{options.out / PARQUET}: {len(prepared.rows)} rows, {len(prepared.left_out)} left out")


def prepare(form: str, source: Path, out: Path) -> Prepared:
    """Write `out` from the rows in `source`.

    Raises:
        ConfigError: no such source, or `out` holds a dataset already.
        DataError: no row is good; left_out.txt says why.
    """
    if (out / PARQUET).exists():
        raise ConfigError(f"--out {out}: it holds a {PARQUET}. Fix: name another folder")
    entries = FORMS[form](source)
    try:
        out.mkdir(parents=True, exist_ok=True)
        prepared = _without_repeats(_converted(entries, out))
        text = "".join(f"{line}\n" for line in prepared.left_out)
        replace_text(out / LEFT_OUT, text)
        if prepared.rows:
            write_rows(prepared.rows, out / PARQUET)
    except OSError as error:
        raise DataError(f"--out {out}: {error}. Fix: see to the disk") from error
    if not prepared.rows:
        first = prepared.left_out[0] if prepared.left_out else "it is empty"
        raise DataError(f"{source}: no row can be used. {first}")
    return prepared


def published_rows(folder: Path) -> Iterator[_Entry]:
    """The rows of FOLDER/train.jsonl.

    Raises:
        ConfigError: it cannot be read.
    """
    path = folder / published_form.FILE
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        mend = f"name the folder with {published_form.FILE} and its pictures"
        raise ConfigError(f"--from {folder}: {error}. Fix: {mend}") from None
    return _published_entries(path, lines)


FORMS: dict[str, Callable[[Path], Iterator[_Entry]]] = {"vision-opd-6k": published_rows}


def _published_entries(path: Path, lines: Iterable[str]) -> Iterator[_Entry]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        place = f"{path} line {number}"
        try:
            yield place, published_form.source_row(line, number, path.parent)
        except BadField as error:
            yield place, error


def _converted(entries: Iterator[_Entry], out: Path) -> Iterator[tuple[str, Row | BadField]]:
    """In their order. Decoding takes most of the time, and threads share it."""

    def convert(entry: _Entry) -> tuple[str, Row | BadField]:
        place, source = entry
        if isinstance(source, BadField):
            return place, source
        try:
            row = dataset_row(source, out)
            _check(row, out)
            return place, row
        except BadField as error:
            return place, error

    with ThreadPoolExecutor() as threads:
        yield from threads.map(convert, entries)


def _check(row: Row, out: Path) -> None:
    """By what a run asks of every row, whatever its model. Raises BadField."""
    from common.dataset import sample_of
    from common.dataset_columns import sample_id_of

    sample = sample_of(sample_id_of(row), row, (), out)
    for field, picture in (("image", sample.image), ("crop", sample.crop)):
        if picture is None:
            continue
        try:
            check_shape(picture.width, picture.height)
        except DataError as error:
            raise BadField.of(field, picture.path, error) from None


def _without_repeats(found: Iterator[tuple[str, Row | BadField]]) -> Prepared:
    """Good rows and lines about the others; of rows with one name the first is good."""
    prepared = Prepared([], [])
    places: dict[str, str] = {}
    for place, row in found:
        if not isinstance(row, BadField) and (name := row["sample_id"]) in places:
            row = BadField(
                "id", name, f"{places[name]} has it too", "give each row a name of its own"
            )
        if isinstance(row, BadField):
            prepared.left_out.append(f"{place}: {row}")
        else:
            places[row["sample_id"]] = place
            prepared.rows.append(row)
    return prepared


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m common.prepare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("form", choices=FORMS, help="the form that the data has")
    parser.add_argument("--from", dest="source", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    return parser.parse_args(argv)


if __name__ == "__main__":
    with ends_with_its_reader():
        main()
