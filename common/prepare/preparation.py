"""A set of foreign rows -> a dataset: good rows into Parquet, the others named, each with why.

The Parquet file is written last, so it is whole or not there.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.bad_rows import BadField
from common.dataset_files import PICTURES, Row, RowWriter
from common.errors import ConfigError, DataError
from common.files import replacing
from common.prepare.conversion import Result

PARQUET = "train.parquet"
LEFT_OUT = "left_out.txt"
Report = Callable[[str], None]


@dataclass
class Prepared:
    """How many rows of a source are good, and how many are left out."""

    num_rows: int = 0
    num_left_out: int = 0
    first: str = ""  # line about the first that is left out


def check_out(out: Path) -> None:
    """Refuse a folder that holds a dataset, with a ConfigError."""
    if (out / PARQUET).exists():
        raise ConfigError(f"--out {out}: it holds a {PARQUET}. Fix: name another folder")


def check(results: Iterable[Result], left_out: Report) -> Prepared:
    """Do all that `prepare` does, but the writing.

    Args:
        left_out: called with a line about each row that is left out.

    Raises:
        ConfigError, OSError: as `converted`.
        DataError: no row is good.
    """
    prepared = Prepared()
    for _ in _good(results, prepared, left_out):
        pass
    _check_any(prepared)
    return prepared


def prepare(
    results: Iterable[Result], out: Path, extra: Mapping[str, Any], left_out: Report
) -> Prepared:
    """Write the files of `out`, whose pictures `converted` writes. left_out.txt has all lines.

    Args:
        extra: columns beside ours, and their types of pyarrow.

    Raises:
        ConfigError: the source cannot be read, or the folder holds a dataset already.
        DataError: no row is good (left_out.txt says why), or the disk is full.
    """
    check_out(out)
    prepared = Prepared()
    try:
        (out / PICTURES).mkdir(parents=True, exist_ok=True)
        with RowWriter(out / PARQUET, extra) as writer:
            with (
                replacing(out / LEFT_OUT) as part,
                part.open("w", encoding="utf-8", errors="backslashreplace") as file,
            ):

                def tell(line: str) -> None:
                    file.write(f"{line}\n")
                    left_out(line)

                writer.add(_good(results, prepared, tell))
            _check_any(prepared)
    except OSError as error:
        raise DataError(f"--out {out}: {error}. Fix: see to the disk") from error
    return prepared


def _good(results: Iterable[Result], prepared: Prepared, left_out: Report) -> Iterator[Row]:
    """Yield the good rows, and count; of rows with one name the first is good."""
    places: dict[str, str] = {}
    for place, row in results:
        if not isinstance(row, str) and (name := row["sample_id"]) in places:
            fix = "give each row a name of its own"
            row = str(BadField("id", name, f"{places[name]} has it too", fix))
        if isinstance(row, str):
            line = f"{place}: {row}"
            prepared.num_left_out += 1
            prepared.first = prepared.first or line
            left_out(line)
        else:
            places[row["sample_id"]] = place
            prepared.num_rows += 1
            yield row


def _check_any(prepared: Prepared) -> None:
    if not prepared.num_rows:
        raise DataError(f"no row can be used. {prepared.first or 'There is none'}")
