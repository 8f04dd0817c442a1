"""RUN/trained: the tokens of each step, kept beside training (`common.trained` has the format).

Nothing waits for it: a thread writes, and what it cannot write in time, or has no room for, is left
out, counted and logged once.
"""

import logging
from collections.abc import Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from common.files import replace_text, replacing
from common.full_disk import append_whole
from common.trained import (
    FOLDER,
    TOKEN_FIGURES,
    TrainedFile,
    TrainedGroup,
    record_batch,
    schema_of_life,
    trained_files,
)
from learner.objective.tokens import TokenFigures
from learner.views.inputs import PreparedGroup

logger = logging.getLogger(__name__)
_UNDER_WAY = 4  # steps that may wait for the disk
_CLOSE_S = 10.0


class StepRows(NamedTuple):
    """What is kept of a step."""

    groups: Sequence[TrainedGroup]
    figures_FT: np.ndarray  # float32 [len(TOKEN_FIGURES), T]


class StepTokens:
    """The figures of a step's tokens, gathered over its micro-batches."""

    def __init__(self) -> None:
        self._groups: list[PreparedGroup] = []
        self._figures_FT: list[Tensor] = []

    def add(self, tokens: TokenFigures, groups: Sequence[PreparedGroup]) -> None:
        """Add a micro-batch, whose figures stay on the device."""
        self._figures_FT.append(torch.stack([getattr(tokens, name) for name in TOKEN_FIGURES]))
        self._groups += groups

    def rows(self) -> StepRows | None:
        """All of it on the host, in one copy. None means that there is no token."""
        if not self._groups:
            return None
        groups = [
            TrainedGroup(
                group.group_id,
                group.sample_id,
                group.trajectories,
                group.staleness,
                group.student.num_tokens,
                group.teacher.num_tokens,
            )
            for group in self._groups
        ]
        figures_FT = torch.cat(self._figures_FT, dim=1).to("cpu", torch.float32)
        return StepRows(groups, figures_FT.numpy())


class TrainedLog:
    """This rank's file of this life of the learner.

    Args:
        step: that the run goes on from.
        max_bytes: that the rank's files may take together.
        writer: runs one task after the other. None means a thread.
    """

    def __init__(
        self,
        run_folder: Path,
        step: int,
        rank: int,
        max_bytes: float,
        writer: Executor | None = None,
    ) -> None:
        self._folder = run_folder / FOLDER
        self._schema = schema_of_life(step)
        self._rank = rank
        self._left_bytes = max_bytes
        self._refused = ""  # why this life keeps nothing; empty means that it does
        self._life = 0
        try:
            # All ranks begin before any of them has trained a step: they count alike. One that
            # cannot look has no number to count by; the others', and later lives', stay theirs.
            self._life = 1 + max((file.life for file in trained_files(self._folder)), default=0)
        except OSError as error:
            self._refused = f"it could not be looked at: {error}"
        self._path: Path | None = None
        self._pending: list[Future[None]] = []
        self._left_out = 0  # steps
        self._writer = writer or ThreadPoolExecutor(1, "trained")

    def write(self, step: int, rows: StepRows) -> None:
        """Have the rows of a step written; returns at once."""
        self._pending = [future for future in self._pending if not future.done()]
        if self._refused:
            self._leave_out(self._refused)
        elif len(self._pending) >= _UNDER_WAY:
            self._leave_out("the disk is too slow")
        else:
            self._pending.append(self._writer.submit(self._write, step, rows))

    def close(self) -> None:
        """Wait for what is under way, for a while."""
        wait(self._pending, _CLOSE_S)
        self._writer.shutdown(wait=False, cancel_futures=True)
        if self._left_out:
            logger.warning("%s has not all: %d steps are left out", self._folder, self._left_out)

    def _write(self, step: int, rows: StepRows) -> None:
        try:
            content = record_batch(step, rows.groups, rows.figures_FT).serialize()
            if self._path is None:
                self._path = self._begun()
            if content.size > self._left_bytes:
                self._leave_out("it has all that run.trained_gib allows")
                return
            with self._path.open("ab", buffering=0) as file:
                append_whole(file, content)
            self._left_bytes -= content.size
        except Exception as error:  # the boundary of this thread: a run can do without its file
            self._leave_out(f"{type(error).__name__}: {error}")

    def _begun(self) -> Path:
        """The file of this life, with the schema in it; its elders count against the limit."""
        elders = [file for file in trained_files(self._folder) if file.rank == self._rank]
        elder_bytes = sum(file.path.stat().st_size for file in elders)
        path = TrainedFile.named(self._folder, self._life, self._rank).path
        self._folder.mkdir(parents=True, exist_ok=True)
        with replacing(path) as unfinished:
            unfinished.write_bytes(self._schema.serialize())
        self._left_bytes -= elder_bytes  # once, though it may have failed before
        return path

    def _leave_out(self, reason: str) -> None:
        if not self._left_out:
            logger.warning("%s: a step is left out, and others may be: %s", self._folder, reason)
        self._left_out += 1


def keep_tokenizer(run_folder: Path, tokenizer: Any) -> None:
    """Write RUN/tokenizer/tokenizer.json: what is kept can be read without the checkpoint."""
    path = run_folder / "tokenizer" / "tokenizer.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_text(path, tokenizer.backend_tokenizer.to_str())
    except Exception as error:  # as in `TrainedLog`
        logger.warning("%s is not written: %s: %s", path, type(error).__name__, error)
