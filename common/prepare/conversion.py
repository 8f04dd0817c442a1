"""Rows -> the dataset's rows, on all cores, in their order, with few of them in memory.

Decoding takes nearly all of the time. Processes share it, not threads: what a row costs beside that
holds the interpreter's lock, for which the threads of many cores would wait. (The bench
`tests/bench/prepare.py` times both.)
"""

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from common.bad_rows import BadField
from common.dataset import sample_of
from common.dataset_columns import sample_id_of
from common.dataset_files import Row
from common.errors import DataError
from common.lifecycle import die_with_parent
from common.prepare.pictures import Looks, dataset_row
from common.prepare.source import SourceRow
from common.prepare.tables import FileRow

_ROWS_A_TASK = 8
_TASKS_AHEAD = 2  # tasks of each process that wait
_FEW = 64  # rows that are done before a pool would have started


class SourceRows(Protocol):
    """A set of foreign rows. It is sent to other processes."""

    @property
    def num_rows(self) -> int: ...
    @property
    def extra(self) -> Mapping[str, Any]: ...

    def entries(self) -> Iterator[FileRow]: ...
    def source_row(self, entry: FileRow) -> SourceRow: ...
    def notes(self) -> list[str]: ...


class Result(NamedTuple):
    place: str
    row: Row | str  # a text says why the row is left out


def converted(rows: SourceRows, looks: Looks, processes: int | None = None) -> Iterator[Result]:
    """Convert rows on all cores, and give the results in the order of the rows.

    Args:
        processes: None means as many as there are cores.

    Raises:
        ConfigError: the source cannot be read.
        DataError: the machine is in trouble.
        OSError: a picture cannot be written.
    """
    entries = rows.entries()
    few = list(islice(entries, _FEW))
    processes = processes or len(os.sched_getaffinity(0))
    if len(few) < _FEW or processes == 1:
        for entry in chain(few, entries):
            yield convert(rows, looks, entry)
        return
    try:
        yield from _by_processes(rows, looks, chain(few, entries), processes)
    except BrokenProcessPool as error:
        raise DataError(
            "a process that decodes pictures was killed, by the kernel for want of memory it may "
            "be. Fix: see to the memory, or use fewer cores (taskset); what is there is kept"
        ) from error


def convert(rows: SourceRows, looks: Looks, entry: FileRow) -> Result:
    """Convert one row; DataError or OSError if something other than the row is at fault."""
    if isinstance(entry.cells, str):
        return Result(entry.place, entry.cells)
    try:
        row = dataset_row(rows.source_row(entry), looks)
        _check(row, looks.folder or Path())
    except BadField as error:
        return Result(entry.place, str(error))
    return Result(entry.place, row)


def _check(row: Row, folder: Path) -> None:
    """Check what a run asks of every row, whatever its model. Raises BadField."""
    for field, value in row.items():
        if isinstance(value, str) and not _is_utf8(value):
            raise BadField(field, value, "holds half a character", "write it as UTF-8")
    sample_of(sample_id_of(row), row, (), folder)


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


# ---- processes -----------------------------------------------------------------------------------
_of_this_process: tuple[SourceRows, Looks]


def _by_processes(
    rows: SourceRows, looks: Looks, entries: Iterator[FileRow], processes: int
) -> Iterator[Result]:
    waiting: deque[Future[list[Result]]] = deque()
    pool = ProcessPoolExecutor(
        processes, multiprocessing.get_context("spawn"), _start, (rows, looks)
    )
    try:
        while task := list(islice(entries, _ROWS_A_TASK)):
            waiting.append(pool.submit(_convert_all, task))
            if len(waiting) > _TASKS_AHEAD * processes:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _start(rows: SourceRows, looks: Looks) -> None:
    global _of_this_process
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    die_with_parent()
    _of_this_process = (rows, looks)


def _convert_all(entries: list[FileRow]) -> list[Result]:
    return [convert(*_of_this_process, entry) for entry in entries]
