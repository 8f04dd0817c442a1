"""Safetensors files, written and read one tensor, or one rank's part of it, at a time.

Here a tensor is asked for when its turn comes, goes to the file from where it is, and is hashed on
the way: a file costs the memory of one tensor and is never read again for its hash. Reading maps no
file into memory: mapped pages count as the process's own for as long as it is open.
"""

import hashlib
import json
import math
import os
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch
from torch import Tensor

from common.files import sync
from common.model_files import INDEX, SINGLE, read_header

_CODES = {
    torch.float64: "F64", torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint8: "U8", torch.bool: "BOOL", torch.uint16: "U16", torch.uint32: "U32",
    torch.uint64: "U64", torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2",
}  # fmt: skip
_DTYPES = {code: dtype for dtype, code in _CODES.items()}
_PIECE_BYTES = 2**26  # read at once where the bytes cannot go straight to their place


class Form(NamedTuple):
    """What is known of a tensor before it is read."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def rows(self, part: "Part") -> tuple[int, int]:
        """[begin, end) of a part along the first axis, as torch.chunk divides; [] has one row."""
        size = self.shape[0] if self.shape else 1
        step = -(-size // part.of)
        return min(size, step * part.number), min(size, step * (part.number + 1))

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape[1:]) * self.dtype.itemsize


class Part(NamedTuple):
    """Which part of every tensor; the first has the file's header as well."""

    number: int
    of: int


WHOLE = Part(0, 1)


class Written(NamedTuple):
    """A file, or the part of it that this process wrote, as it was meant to be on the disk."""

    sha256: str
    num_bytes: int


def forms_of(tensors: Mapping[str, Tensor]) -> dict[str, Form]:
    """The whole form of each tensor, also of one that is sharded over ranks."""
    return {name: Form(t.dtype, tuple(t.shape)) for name, t in tensors.items()}


# ---- write ---------------------------------------------------------------------------------------
def write_tensors(
    path: Path,
    forms: Mapping[str, Form],
    read: Callable[[str], Tensor],
    metadata: Mapping[str, str] | None = None,
    part: Part = WHOLE,
) -> Written:
    """Write one file, or a part of it; its folder is made if need be.

    Args:
        forms: of the whole tensors.
        read: gives the CPU tensor of a name, in its form, or the part's rows of it; called once a
            name.
        metadata: goes into the header.
        part: other processes write the others, before or after.

    Raises:
        OSError: the file cannot be written.
        ValueError: a tensor has not the form that was announced.
    """
    names = _in_file_order(forms)
    digest = hashlib.sha256()
    num_bytes = 0
    path.parent.mkdir(parents=True, exist_ok=True)
    with _new(path) if part == WHOLE else _shared(path) as file:
        for offset, content in _contents(names, forms, read, metadata or {}, part):
            file.seek(offset)
            file.write(content)
            digest.update(content)
            num_bytes += len(content)
    if part != WHOLE:
        sync(path)  # of another machine's writes the first rank's would tell nothing
    return Written(digest.hexdigest(), num_bytes)


def digest_of_part(path: Path, part: Part) -> str:
    """What `write_tensors` gave for it, from the file itself.

    Raises:
        OSError, ValueError, KeyError, struct.error: it cannot be read.
    """
    header, start = read_header(path)
    header.pop("__metadata__", None)
    forms = {name: _form(entry) for name, entry in header.items()}
    digest = hashlib.sha256()
    with path.open("rb") as file:
        if part.number == 0:
            digest.update(file.read(start))
        for name in _in_file_order(forms):
            begin, end = forms[name].rows(part)
            file.seek(start + header[name]["data_offsets"][0] + begin * forms[name].row_bytes)
            _update(digest, file, (end - begin) * forms[name].row_bytes)
    return digest.hexdigest()


def write_model(
    folder: Path,
    forms: Mapping[str, Form],
    read: Callable[[str], Tensor],
    max_shard_bytes: int,
    part: Part = WHOLE,
) -> dict[str, Written]:
    """Write a model as Hugging Face has it: one file, or several and their index.

    Args:
        read, part: as in `write_tensors`; the index is of the first part.
        max_shard_bytes: of tensors in a file; a larger tensor gets a file of its own.

    Returns:
        The files of tensors by name; the index is not among them.
    """
    shards = _shards(forms, max_shard_bytes)
    written: dict[str, Written] = {}
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        file_name = SINGLE
        if len(shards) > 1:
            file_name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        chosen = {name: forms[name] for name in shard}
        facts = {"format": "pt"}
        written[file_name] = write_tensors(folder / file_name, chosen, read, facts, part)
        weight_map |= dict.fromkeys(shard, file_name)
    if len(shards) > 1 and part.number == 0:
        total = sum(form.num_bytes for form in forms.values())
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return written


def _header(names: list[str], forms: Mapping[str, Form], metadata: Mapping[str, str]) -> bytes:
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    begin = 0
    for name in names:
        end = begin + forms[name].num_bytes
        header[name] = {
            "dtype": _CODES[forms[name].dtype],
            "shape": list(forms[name].shape),
            "data_offsets": [begin, end],
        }
        begin = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _contents(
    names: list[str],
    forms: Mapping[str, Form],
    read: Callable[[str], Tensor],
    metadata: Mapping[str, str],
    part: Part,
) -> Iterator[tuple[int, bytes | memoryview]]:
    """The tensors that a part has of a file, and where the part begins in it."""
    header = _header(names, forms, metadata)
    if part.number == 0:
        yield 0, header
    offset = len(header)
    for name in names:
        form = forms[name]
        begin, end = form.rows(part)
        if end > begin:
            tensor = read(name)
            shape = (end - begin, *form.shape[1:]) if form.shape else ()
            if (tensor.dtype, tuple(tensor.shape)) != (form.dtype, shape):
                raise ValueError(f"{name} is {tensor.dtype} {tuple(tensor.shape)}, not {form}")
            yield offset + begin * form.row_bytes, _bytes_of(tensor)
        offset += form.num_bytes


def _bytes_of(tensor: Tensor) -> memoryview:
    """The bytes of a tensor; copied only if it does not lie in one piece."""
    content: memoryview = tensor.detach().contiguous().flatten().view(torch.uint8).numpy().data
    return content


def _in_file_order(forms: Mapping[str, Form]) -> list[str]:
    """Names with the widest elements first: each begins at a multiple of its element's size."""
    return sorted(forms, key=lambda name: (-forms[name].dtype.itemsize, name))


def _form(entry: Mapping[str, Any]) -> Form:
    return Form(_DTYPES[entry["dtype"]], tuple(entry["shape"]))


def _new(path: Path) -> IO[bytes]:
    return path.open("xb")


def _shared(path: Path) -> IO[bytes]:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT, 0o666), "wb")


def _update(digest: Any, file: IO[bytes], num_bytes: int) -> None:
    while num_bytes:
        content = file.read(min(num_bytes, 2**20))
        if not content:
            raise ValueError("it is cut off")
        digest.update(content)
        num_bytes -= len(content)


def _shards(forms: Mapping[str, Form], max_bytes: int) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    num_bytes = 0
    for name, form in forms.items():
        if shards[-1] and num_bytes + form.num_bytes > max_bytes:
            shards.append([])
            num_bytes = 0
        shards[-1].append(name)
        num_bytes += form.num_bytes
    return shards


# ---- read ----------------------------------------------------------------------------------------
class TensorFiles(Mapping[str, Tensor]):
    """The tensors of some files by name, read when they are asked for. A context manager.

    Raises:
        OSError, SafetensorError: a file cannot be read.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        from safetensors import safe_open

        self.forms: dict[str, Form] = {}
        self.metadata: dict[str, str] = {}
        self._places: dict[str, tuple[int, int]] = {}  # descriptor, and where a tensor begins
        descriptors: list[int] = []
        self._close = weakref.finalize(self, _close, descriptors)
        for path in paths:
            with safe_open(path, framework="pt"):
                pass  # it knows best whether a header is sound
            header, start = read_header(path)
            self.metadata |= header.pop("__metadata__", {})
            descriptors.append(os.open(path, os.O_RDONLY))
            for name, entry in header.items():
                self.forms[name] = _form(entry)
                self._places[name] = (descriptors[-1], start + entry["data_offsets"][0])

    def __enter__(self) -> "TensorFiles":
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def __getitem__(self, name: str) -> Tensor:
        """The whole tensor, on the CPU."""
        form = self.forms[name]
        tensor = torch.empty(form.shape, dtype=form.dtype)
        self.read_into(tensor, name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self.forms)

    def __len__(self) -> int:
        return len(self.forms)

    def read_into(self, target: Tensor, name: str, part: tuple[slice, ...] | None = None) -> None:
        """Fill a tensor, of any dtype on any device, with a rectangle of this one, or all of it.

        Only the rows that it reaches into are read, some at a time.
        """
        shape = self.forms[name].shape or (1,)
        rows, *others = part or tuple(slice(0, size) for size in shape)
        if shape != self.forms[name].shape:
            target = target.unsqueeze(0)
        is_direct = _is_direct(target, self.forms[name].dtype) and target.shape[1:] == shape[1:]
        step = max(1, _PIECE_BYTES // max(1, self.forms[name].row_bytes))
        for begin in range(rows.start, rows.stop, step):
            end = min(rows.stop, begin + step)
            place = target[begin - rows.start : end - rows.start]
            if is_direct:
                self._read_rows(place, name, begin)
            else:
                piece = torch.empty((end - begin, *shape[1:]), dtype=self.forms[name].dtype)
                self._read_rows(piece, name, begin)
                place.copy_(piece[(slice(None), *others)])

    def _read_rows(self, target: Tensor, name: str, begin: int) -> None:
        """Read as many whole rows as the target has, which lies in one piece in main memory."""
        descriptor, start = self._places[name]
        rest = _bytes_of(target)
        offset = start + begin * self.forms[name].row_bytes
        while rest:
            count = os.preadv(descriptor, [rest], offset)
            if not count:
                raise OSError(f"the file ends before its {name} does")
            rest, offset = rest[count:], offset + count


def _close(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _is_direct(target: Tensor, dtype: torch.dtype) -> bool:
    return target.device.type == "cpu" and target.dtype == dtype and target.is_contiguous()
