"""What published sets have in common: Parquet files of one repository, answers that are letters."""

from collections.abc import Callable, Sequence
from pathlib import Path

from common.scoring.option_letters import option_of
from rollout.evaluation.hub import matching
from rollout.evaluation.items import Item, SetReading
from rollout.evaluation.rows import Row, parquet_rows


def parquet_set(
    files: Sequence[str],
    columns: Sequence[str],
    item: Callable[[Row], Item],
    optional: Sequence[str] = (),
) -> Callable[[Sequence[Path]], SetReading]:
    """An `EvaluationSet.read` of Parquet files, a row an item.

    Args:
        files: patterns of paths.
        optional: further columns that are read where they are there.
    """

    def read(folders: Sequence[Path]) -> SetReading:
        paths = [path for pattern in files for path in matching(folders[0], pattern)]
        rows = parquet_rows(paths, columns, optional)
        return SetReading(rows.total, map(item, rows.each))

    return read


def letter_of(row: Row, field: str) -> str:
    """The capital of "B", "(b)", "B." or "B. red". Raises DataError."""
    option = option_of(row.text(field).strip())
    if option is None:
        raise row.error(field, "names no option", "write the letter of the right option")
    return option[0]
