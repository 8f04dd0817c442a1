"""Checks of a sample's picture files, by their headers alone: are they what its row says?"""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from common.bad_rows import BadField
from common.errors import DataError
from common.pictures import header_size, size_problem
from common.types import ImageRef, Sample

_THREADS = 16  # most of the time they wait for a file system
_AT_ONCE = 64  # samples a task, for a task costs as much as a header
_MAX_FILE_BYTES = 2**30
_READABLE = "let this user read it"
# What a file system or a machine says that has troubles of its own.
_OF_THE_MACHINE = (
    errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.ENOMEM, errno.EMFILE,
    errno.ENFILE, errno.ENOTCONN, errno.EHOSTDOWN, errno.EHOSTUNREACH,
)  # fmt: skip


def check_pictures(samples: Sequence[Sample], folder: Path) -> Iterator[BadField | None]:
    """What is wrong with each sample's pictures, in their order; None means nothing."""
    parts = [samples[start : start + _AT_ONCE] for start in range(0, len(samples), _AT_ONCE)]
    if len(parts) < 2:
        yield from (problem_of(sample, folder) for sample in samples)
        return
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="headers") as threads:
        for found in threads.map(lambda part: [problem_of(s, folder) for s in part], parts):
            yield from found


def problem_of(sample: Sample, folder: Path) -> BadField | None:
    """What is wrong with the pictures of a sample, or None."""
    try:
        check_picture(sample.image, folder, "image")
        if sample.crop is not None:
            check_picture(sample.crop, folder, "crop")
    except BadField as error:
        return error
    return None


def check_picture(ref: ImageRef, folder: Path, field: str) -> None:
    """Check that the file of a picture is what its row says.

    Args:
        folder: its path is relative to this.
        field: the column's name, for the error.

    Raises:
        BadField: no file, or no picture of that size and of a format in use.
        DataError: the file system or the machine is in trouble; it is not the row's fault.
    """
    path = folder / ref.path
    said = (ref.width, ref.height)
    with _as_bad_field(path, ref.path, field):
        _check_file(path, ref.path, field)
        size = header_size(path, said)
        if size != said:
            raise DataError(size_problem(size, said))


def read_picture_file(path: Path, field: str) -> bytes:
    """Read all that is in a picture's file.

    Raises:
        BadField, DataError: as `check_picture`.
    """
    with _as_bad_field(path, str(path), field):
        _check_file(path, str(path), field)
        return path.read_bytes()


def _check_file(path: Path, shown: str, field: str) -> None:
    """Refuse a file that is not regular, or too large; raises BadField, OSError."""
    state = os.stat(path)
    if not stat.S_ISREG(state.st_mode):  # a pipe would be waited for
        raise BadField(field, shown, "no file, but a folder or device", "name a file")
    if state.st_size > _MAX_FILE_BYTES:
        problem = f"a file of {state.st_size / 2**20:.0f} MiB"
        raise BadField(field, shown, problem, "save it as JPEG or PNG")


@contextlib.contextmanager
def _as_bad_field(path: Path, shown: str, field: str) -> Iterator[None]:
    """Turn an error inside into one of the field, unless the machine is in trouble."""
    try:
        yield
    except BadField:
        raise
    except DataError as error:
        raise BadField.of(field, shown, error, "save the picture anew") from None
    except OSError as error:
        if error.errno in _OF_THE_MACHINE:
            raise DataError(
                f"{path}: {error.strerror}. Fix: this says nothing of the row; start again when "
                "its file system answers"
            ) from error
        raise BadField(field, shown, *_words(error)) from None
    except ValueError as error:  # the path cannot be one
        raise BadField(field, shown, str(error), _READABLE) from None


def _words(error: OSError) -> tuple[str, str]:
    """The problem and the fix of an error."""
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return "there is no such file", "restore it, or correct the path"
    return error.strerror or str(error), _READABLE
