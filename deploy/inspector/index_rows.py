"""From a record batch of RUN/trained to the rows of the index, one a trajectory. Pure."""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa

NUMBERS = {  # columns that are held in memory, with their types
    "step": np.int32,
    "file": np.int32,  # number of the file in the manifest
    "offset": np.int64,  # where its batch starts in the file
    "row": np.int32,  # in the batch
    "index": np.int32,  # in its group
    "tokens": np.int32,
    "staleness": np.int32,  # steps
    "finish": np.int8,  # place in FINISHES
    "divergence_mean": np.float32,  # nats, as all that follow
    "divergence_max": np.float32,
    "drift_mean": np.float32,
    "drift_max": np.float32,
    "gain_mean": np.float32,
    "entropy_mean": np.float32,
    "answer": np.int64,  # digest of the text that the group gave most often
}
FINISHES = ("stop", "length", "abort", "")  # the last one: another
SAMPLE, TEXT = "sample", "text"  # sample_id; the whole text, case-folded, for searching
IN_MEMORY = pa.schema(
    [
        *(pa.field(name, pa.from_numpy_dtype(np.dtype(kind))) for name, kind in NUMBERS.items()),
        pa.field(SAMPLE, pa.dictionary(pa.int32(), pa.string())),
    ]
)
SEARCHED = pa.schema([pa.field(TEXT, pa.string())])
SCHEMA = pa.schema([*IN_MEMORY, *SEARCHED])
_TOKENS_AT_ONCE = 2**18  # to be decoded: as Python's numbers they take ten times the room
TextsOf = Callable[[Sequence[Sequence[int]]], list[str]]


def index_rows(batch: pa.RecordBatch, file: int, offset: int, texts_of: TextsOf) -> pa.RecordBatch:
    """The rows of `SCHEMA` for a batch.

    Args:
        file, offset: where the batch is.
        texts_of: decodes rows of token ids.
    """
    size = batch.num_rows
    offsets = batch.column("token_ids").offsets.to_numpy()
    lengths = np.diff(offsets)
    texts = _texts(batch.column("token_ids"), offsets, texts_of)
    student, rollout, teacher, divergence, entropy = (
        batch.column(name).flatten().to_numpy()
        for name in (
            "student_logprob", "rollout_logprob", "teacher_logprob", "divergence", "entropy",
        )
    )  # fmt: skip
    starts = offsets[:-1] - offsets[0]

    def mean(values: np.ndarray) -> np.ndarray:
        sums = _of_rows(np.add, values.astype(np.float64), starts, lengths)
        sums /= np.maximum(lengths, 1)
        return sums

    def highest(values: np.ndarray) -> np.ndarray:
        return _of_rows(np.maximum, values, starts, lengths)

    drift = np.abs(student - rollout)
    finishes = [FINISHES.index(f) if f in FINISHES else 3
                for f in batch.column("finish_reason").to_pylist()]  # fmt: skip
    columns = {
        "step": batch.column("step").to_numpy(),
        "file": np.full(size, file),
        "offset": np.full(size, offset),
        "row": np.arange(size),
        "index": batch.column("index").to_numpy(),
        "tokens": lengths,
        "staleness": batch.column("staleness").to_numpy(),
        "finish": np.array(finishes, int),
        "divergence_mean": mean(divergence),
        "divergence_max": highest(divergence),
        "drift_mean": mean(drift),
        "drift_max": highest(drift),
        "gain_mean": mean(teacher - student),
        "entropy_mean": mean(entropy),
        "answer": _answers(batch.column("group_id").to_pylist(), texts),
    }
    arrays = [pa.array(columns[name].astype(kind)) for name, kind in NUMBERS.items()]
    samples = batch.column("sample_id").dictionary_encode()
    arrays += [samples, pa.array([text.casefold() for text in texts], pa.string())]
    return pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)


def _texts(ids: pa.ListArray, offsets: np.ndarray, texts_of: TextsOf) -> list[str]:
    texts: list[str] = []
    while (begin := len(texts)) < len(ids):
        behind = np.searchsorted(offsets, offsets[begin] + _TOKENS_AT_ONCE, "right")
        texts += texts_of(ids[begin : max(int(behind) - 1, begin + 1)].to_pylist())
    return texts


def _of_rows(
    reduce: np.ufunc, values: np.ndarray, starts: np.ndarray, lengths: np.ndarray
) -> np.ndarray:
    """A ufunc over each row's values; NaN for a row without any."""
    found = np.full(len(lengths), np.nan)
    is_there = lengths > 0
    if is_there.any():
        found[is_there] = reduce.reduceat(values, starts[is_there])
    return found


def _answers(groups: Sequence[str], texts: Sequence[str]) -> np.ndarray:
    """A digest for each row: of its group's most frequent text, of equals that came first."""
    by_group: dict[str, Counter[str]] = {}
    for group, text in zip(groups, texts, strict=True):
        by_group.setdefault(group, Counter())[text.strip()] += 1
    digests = {group: _digest(counts.most_common(1)[0][0]) for group, counts in by_group.items()}
    return np.array([digests[group] for group in groups], np.int64)


def _digest(text: str) -> int:
    content = text.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big", signed=True)
