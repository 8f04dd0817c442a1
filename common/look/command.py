"""Write a self-contained HTML sheet of a dataset.

    python -m common.prepare look DIR

DIR has train.parquet and its pictures; a Parquet file can be named, too. The sheet shows sampled
rows as a run sees them, how sizes, boxes, tokens and questions are distributed over all rows, and
what looks wrong. Tokens are counted by the files of --model; without it those of pictures alone
are, by Qwen3.5's rule.
"""

import argparse
import random
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq

from common.command_line import parser_of, refusing
from common.dataset import parsed_rows, read_answers
from common.errors import ConfigError, DataError
from common.files import replace_text
from common.images import ImageStore
from common.look.remarks import remarks_of
from common.look.sheet import sheet
from common.look.survey import survey
from common.look.token_counts import token_counts

_PARQUET = "train.parquet"
_SHEET = "look.html"
_CACHE_BYTES = 2**26  # decoded pictures that are kept: each is looked at once
_MOST_ROWS = 500  # pictures of so many are as much as a browser likes
_SEED = 0  # shows the same rows each time


def main(argv: Sequence[str] | None = None) -> None:
    options = _arguments(argv)
    with refusing("look"):
        path, num_remarks = look(options.dataset, options.out, options.model, options.rows)
    print(f"{path}: what looks wrong: {num_remarks or 'nothing'}")


def look(dataset: Path, out: Path | None, model: Path | None, rows: int) -> tuple[Path, int]:
    """Write the sheet; returns its path, and how many remarks stand in it.

    Args:
        dataset: folder with train.parquet, or a Parquet file.
        out: None means look.html beside the Parquet file.
        model: folder of a checkpoint, whose tokens are counted.
        rows: how many are shown, chosen at random.

    Raises:
        ConfigError: a model whose tokens cannot be counted.
        DataError: the dataset cannot be read, or the sheet cannot be written.
    """
    path = dataset if dataset.is_file() else dataset / _PARQUET
    counts = token_counts(model)
    answers = read_answers(path)
    found = survey(path, parsed_rows(path), counts, answers, _chosen(path, rows))
    remarks = remarks_of(found, counts)
    images = ImageStore(path.parent, _CACHE_BYTES)
    target = path.with_name(_SHEET) if out is None else out
    try:
        replace_text(target, sheet(found, remarks, counts, answers, images))
    except OSError as error:
        raise DataError(f"{target}: {error.strerror}. Fix: name another file by --out") from error
    return target, len(remarks)


def _chosen(path: Path, rows: int) -> frozenset[int]:
    """The numbers of the rows to show. The file has been read before, so it is a Parquet file."""
    with pq.ParquetFile(path) as file:
        num_rows = file.metadata.num_rows
    return frozenset(random.Random(_SEED).sample(range(num_rows), min(rows, num_rows)))


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = parser_of("python -m common.prepare look", __doc__)
    parser.add_argument("dataset", type=Path, metavar="DIR", help=f"folder with {_PARQUET}")
    parser.add_argument("--out", type=Path, metavar="FILE.html", help=f"default: DIR/{_SHEET}")
    parser.add_argument("--model", type=Path, metavar="PATH", help="folder of a checkpoint")
    parser.add_argument("--rows", type=int, default=24, help="rows to show (default: 24)")
    options = parser.parse_args(argv)
    if not 0 <= options.rows <= _MOST_ROWS:
        error = ConfigError(f"--rows {options.rows}: not 0 to {_MOST_ROWS}. Fix: show fewer")
        parser.error(str(error))
    return options
