"""Rows of figures as a run's files have them, read under the names of today.

RUN/metrics.jsonl, RUN/observations.jsonl and RUN/groups.jsonl of any version of the code.
"""

import json
from pathlib import Path
from typing import Any

from common.errors import ConfigError
from common.files import whole_lines

Row = dict[str, Any]
RENAMED = {  # names of earlier versions
    "slots_used": "broker/slots_used",
    "learner/response_tokens_mean": "learner/response_mean_tokens",
    "learner/logprob_difference_mean_nats": "drift/mean_nats",
    "learner/logprob_difference_max_nats": "drift/max_nats",
    "evaluation/seconds": "evaluation/stall_s",
}


def read_rows(path: Path, last_bytes: int | None = None) -> list[Row]:
    """The whole rows of a file, in its order; none if there is no file.

    Args:
        last_bytes: only so many bytes from its end, lines numbered from there; None reads all.

    Raises:
        ConfigError: a line is no row, or the file cannot be read.
    """
    try:
        lines = whole_lines(path, last_bytes)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}. Fix: see who may read it") from error
    return [row_of(line, path, number) for number, line in enumerate(lines, 1) if line.strip()]


def row_of(line: str, path: Path, number: int) -> Row:
    """The row that is in a line of a file. Raises ConfigError, which names the line."""
    try:
        row = json.loads(line)
        return {RENAMED.get(name, name): value for name, value in row.items()}
    except (ValueError, AttributeError) as error:
        raise ConfigError(
            f"{path}, line {number}: {line.strip()[:60]!r} is no row of figures. Fix: remove it"
        ) from error
