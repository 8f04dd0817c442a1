"""What an offline run of W&B has written: a log as LevelDB's, behind a head of 7 bytes."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

_FILE_HEAD, _HEAD, _BLOCK = 7, 7, 32768
_WHOLE, _LAST = 1, 4  # kinds of pieces with which a record ends


def records(path: Path) -> Iterator[Any]:
    content, place, record = path.read_bytes(), _FILE_HEAD, b""
    while place + _HEAD <= len(content):
        if (left := _BLOCK - place % _BLOCK) < _HEAD:
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, place)
        record += content[place + _HEAD : place + _HEAD + length]
        place += _HEAD + length
        if kind in (_WHOLE, _LAST):
            yield wandb_internal_pb2.Record.FromString(record)
            record = b""


def rows(path: Path) -> list[dict[str, Any]]:
    """The rows that were logged, in their order, without W&B's own keys."""
    found = [
        {item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
        for record in records(path)
        if record.WhichOneof("record_type") == "history"
    ]
    return [{k: v for k, v in row.items() if not k.startswith("_")} for row in found]


def run_of(path: Path) -> Any:
    return next(r.run for r in records(path) if r.WhichOneof("record_type") == "run")


def step_metrics(path: Path) -> dict[str, str]:
    """What curves are drawn over, by the metrics' pattern."""
    found = [r.metric for r in records(path) if r.WhichOneof("record_type") == "metric"]
    return {metric.glob_name: metric.step_metric for metric in found if metric.glob_name}
