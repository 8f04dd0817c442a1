"""Safetensors files, written and read one tensor at a time.

The `safetensors` package writes a file from tensors that are all in memory, and copies each of them
into bytes. Here a tensor is asked for when its turn comes, goes to the file from where it lies, and
is hashed on the way: a file costs the memory of one tensor and is never read again for its hash.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from common.model_files import INDEX, SINGLE

_CODES = {
    torch.float64: "F64", torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint8: "U8", torch.bool: "BOOL", torch.uint16: "U16", torch.uint32: "U32",
    torch.uint64: "U64", torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2",
}  # fmt: skip
_DTYPES = {code: dtype for dtype, code in _CODES.items()}


class Form(NamedTuple):
    """What is known of a tensor before it is read."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class Written(NamedTuple):
    """A file as it was meant to be on the disk."""

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
) -> Written:
    """Write one file; its folder is made if need be.

    Args:
        read: gives the CPU tensor of a name, in its form; called once a name.
        metadata: goes into the header.

    Raises:
        OSError: the file cannot be written.
        ValueError: a tensor has not the form that was announced.
    """
    # Widest elements first, so that each tensor begins at a multiple of its element's size.
    names = sorted(forms, key=lambda name: (-forms[name].dtype.itemsize, name))
    digest = hashlib.sha256()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        for content in _contents(names, forms, read, metadata or {}):
            file.write(content)
            digest.update(content)
        return Written(digest.hexdigest(), file.tell())


def write_model(
    folder: Path, forms: Mapping[str, Form], read: Callable[[str], Tensor], max_shard_bytes: int
) -> dict[str, Written]:
    """Write a model as Hugging Face has it: one file, or several and their index.

    Args:
        read: as in `write_tensors`.
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
        part = {name: forms[name] for name in shard}
        written[file_name] = write_tensors(folder / file_name, part, read, {"format": "pt"})
        weight_map |= dict.fromkeys(shard, file_name)
    if len(shards) > 1:
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
) -> Iterator[bytes | memoryview]:
    yield _header(names, forms, metadata)
    for name in names:
        tensor = read(name)
        if (tensor.dtype, tuple(tensor.shape)) != forms[name]:
            raise ValueError(f"{name} is {tensor.dtype} {tuple(tensor.shape)}, not {forms[name]}")
        # A copy only where a tensor does not lie in one piece.
        yield tensor.detach().contiguous().flatten().view(torch.uint8).numpy().data


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
def model_files(folder: Path) -> list[Path]:
    """The files of a model's tensors, all in its folder.

    Raises:
        OSError, ValueError: its index is unreadable, or names a file elsewhere.
    """
    if not (folder / INDEX).exists():
        return [folder / SINGLE]
    weight_map = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
    names = sorted(set(weight_map.values()))
    for name in names:
        # By its name alone: the hub's cache keeps the file itself behind a link.
        if Path(name).name != name or name == "..":
            raise ValueError(f"{INDEX} names {name!r}, which is no file of this folder")
    return [folder / name for name in names]


class TensorFiles(Mapping[str, Tensor]):
    """The tensors of some files by name, read when they are asked for. A context manager.

    Raises:
        OSError, SafetensorError: a file cannot be read.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        from safetensors import safe_open

        self.forms: dict[str, Form] = {}
        self.metadata: dict[str, str] = {}
        self._file_of: dict[str, Any] = {}
        with ExitStack() as stack:
            for path in paths:
                file = stack.enter_context(safe_open(path, framework="pt"))
                self.metadata |= file.metadata() or {}
                for name in file.keys():  # noqa: SIM118  (it is not a mapping)
                    part = file.get_slice(name)
                    dtype = _DTYPES[part.get_dtype()]
                    self.forms[name] = Form(dtype, tuple(part.get_shape()))
                    self._file_of[name] = file
            self._open = stack.pop_all()

    def __enter__(self) -> "TensorFiles":
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def __getitem__(self, name: str) -> Tensor:
        """The whole tensor, on the CPU."""
        tensor: Tensor = self._file_of[name].get_tensor(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._file_of)

    def __len__(self) -> int:
        return len(self._file_of)

    def read_part(self, name: str, part: tuple[slice, ...]) -> Tensor:
        """A rectangle of it; other bytes of the file are not touched."""
        tensor: Tensor = self._file_of[name].get_slice(name)[part]
        return tensor
