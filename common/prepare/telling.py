"""What a preparation says on the terminal: what was taken for what, how far it is, what is bad."""

import sys
from collections.abc import Callable

from rich.console import Console
from rich.progress import track

from common.prepare.conversion import SourceRows, converted
from common.prepare.pictures import Looks
from common.prepare.preparation import LEFT_OUT, PARQUET, Prepared, check, prepare

_SHOWN = 20  # rows that are left out; the file has all of them


def run(rows: SourceRows, looks: Looks) -> Prepared:
    """Prepare, or only check where the looks name no folder.

    Raises:
        ConfigError, DataError: as `prepare`.
    """
    for line in rows.notes():
        print(line, flush=True)
    results = track(
        converted(rows, looks),
        "rows",
        total=rows.num_rows,
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    )
    if looks.folder is None:
        prepared = check(results, _print_left_out)
        print(f"checked: {prepared.num_rows} rows are good, {prepared.num_left_out} are not")
        return prepared
    prepared = prepare(results, looks.folder, rows.extra, _first_of_them())
    if prepared.num_left_out > _SHOWN:
        more = prepared.num_left_out - _SHOWN
        print(f"and {more} more, see {looks.folder / LEFT_OUT}", file=sys.stderr)
    counts = f"{prepared.num_rows} rows, {prepared.num_left_out} left out"
    print(f"{looks.folder / PARQUET}: {counts}")
    return prepared


def _first_of_them() -> Callable[[str], None]:
    left = iter(range(_SHOWN))

    def tell(line: str) -> None:
        if next(left, None) is not None:
            _print_left_out(line)

    return tell


def _print_left_out(line: str) -> None:
    print(f"left out: {line}", file=sys.stderr)
