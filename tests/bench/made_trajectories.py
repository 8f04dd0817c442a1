"""A made-up run of many trajectories, for tests/bench/inspector.py: RUN/trained and a tokenizer.

Texts are of 20,000 made-up words, some far more frequent than others, a word a token. Each
sample is trained again in each epoch. The same seed makes the same files.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from common.trained import FOLDER, SCHEMA, TrainedFile, schema_of_life

GROUPS, ANSWERS = 64, 8  # of a step, of a group
_WORDS = 20_000
_SAMPLES = 50_000
_LETTERS = np.array(list("etaoinshrdlucmfwypvbgkjqxz"))
_END = "<|im_end|>"


def make_run(run: Path, trajectories: int, seed: int, tokens: int = 60) -> int:
    """Write a run of whole steps, at least one; returns how many trajectories it has.

    Args:
        tokens: of an answer, about.
    """
    run.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    _tokenizer(rng).save(str(_parent(run / "tokenizer" / "tokenizer.json")))
    steps = max(1, trajectories // (GROUPS * ANSWERS))
    with _parent(TrainedFile.named(run / FOLDER, 1, 0).path).open("wb") as file:
        file.write(schema_of_life(0).serialize())
        for step in range(1, steps + 1):
            file.write(_batch(step, rng, tokens).serialize())
    return steps * GROUPS * ANSWERS


def _parent(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _tokenizer(rng: np.random.Generator) -> Any:
    from tokenizers import Tokenizer, decoders, models

    vocabulary = {_END: 0}
    while len(vocabulary) < _WORDS:
        drawn = np.minimum(rng.exponential(6, rng.integers(2, 9)).astype(int), 25)
        vocabulary.setdefault(" " + "".join(_LETTERS[drawn]), len(vocabulary))
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=_END))
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([_END])
    return tokenizer


def _batch(step: int, rng: np.random.Generator, mean: int) -> pa.RecordBatch:
    """The rows of a step; groups one after the other."""
    rows = GROUPS * ANSWERS
    lengths = np.clip(rng.normal(mean, mean / 4, rows), 5, 2 * mean).astype(np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    tokens = int(offsets[-1])
    numbers = range((step - 1) * GROUPS, step * GROUPS)
    groups = [f"{number // _SAMPLES}/{number % _SAMPLES}" for number in numbers]
    samples = [f"sample-{number * 7919 % _SAMPLES:06d}" for number in numbers]
    staleness = rng.integers(0, 3, rows).astype(np.int32)
    student = -rng.exponential(0.5, tokens)
    values: dict[str, Any] = {
        "step": np.full(rows, step),
        "group_id": np.repeat(groups, ANSWERS),
        "sample_id": np.repeat(samples, ANSWERS),
        "index": np.tile(np.arange(ANSWERS), GROUPS),
        "staleness": staleness,
        "finish_reason": np.where(rng.random(rows) < 0.05, "length", "stop"),
        "cache_version": step - 1 - staleness,
        "span_versions": step - 1 - staleness,
        "span_ends": lengths,
        "student_prompt_tokens": np.full(rows, 3400),
        "teacher_prompt_tokens": np.full(rows, 400),
        "token_ids": np.minimum(rng.zipf(1.3, tokens), _WORDS - 1),
        "rollout_logprob": student + rng.normal(0, 0.02, tokens),
        "student_logprob": student,
        "teacher_logprob": -rng.exponential(0.5, tokens),
        "divergence": rng.exponential(0.1, tokens),
        "entropy": rng.exponential(0.7, tokens),
    }
    one_span = np.arange(rows + 1, dtype=np.int32)
    columns = []
    for field in SCHEMA:
        if pa.types.is_list(field.type):
            inner = pa.array(values[field.name]).cast(field.type.value_type)
            ends = one_span if field.name.startswith("span_") else offsets
            columns.append(pa.ListArray.from_arrays(pa.array(ends), inner, type=field.type))
        else:
            columns.append(pa.array(values[field.name].tolist(), field.type))
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)
