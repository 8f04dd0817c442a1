"""Saves checkpoints while training goes on."""

import contextlib
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

from common import spans
from common.config import RunConfig
from common.errors import CheckpointError
from common.files import sync
from common.full_disk import DiskFull, waits_for_room, when_there_is_room
from common.rendering import Renderer
from learner.checkpoint.cut import Cut, Trained, take_cut
from learner.checkpoint.fellows import Fellows
from learner.checkpoint.files import write_checkpoint, write_parts
from learner.checkpoint.folder import (
    list_checkpoints,
    oldest_target,
    part_of,
    path_of,
    read_scores,
    remove_leftovers,
    remove_superseded,
    version_of,
    write_scores,
)
from learner.checkpoint.start import read_start
from learner.ranks import RankError

logger = logging.getLogger(__name__)
_WRITE_TIMEOUT_S = 1800.0  # a write that takes longer is an error
_LOOK_S = 5.0  # whether a full disk has room again
_NEVER = -1


class Checkpointer:
    """Use it as a context manager; leaving it waits for what is being written.

    Make it before the first step: the version that the trainer has then needs no checkpoint, since
    it is the start, or was restored from one. With several ranks each has one, and all call `save`
    at the same steps. Weights must change by `trainer.optimizer.step` alone, or after a `wait`.

    Args:
        folder: RUN/checkpoints.
        commit: is told the version, and the oldest step that a learner may have to go back to, when
            everything is written and before it is valid. If it raises, there is no new checkpoint.
            It runs in the thread that writes.

    Raises:
        ConfigError: the folder that the run starts from cannot be read.
    """

    def __init__(
        self,
        folder: Path,
        trainer: Trained,
        renderer: Renderer,
        config: RunConfig,
        commit: Callable[[int, int], None],
    ) -> None:
        self._folder = folder
        self._trainer = trainer
        self._ranks = trainer.ranks
        self._start = read_start(config, trainer.model, renderer.end_token_ids)
        self._config = config
        self._commit = commit
        self._fellows = Fellows(trainer.ranks)
        self._cut: Cut | None = None  # that is being written
        self._hook = trainer.optimizer.before_update(self._secure)
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None
        self._is_hurried = False  # a full disk is not waited for
        self._saved_version = trainer.version  # of version 0 there is no need of one
        self._awaited: set[int] = set()  # versions whose accuracy is not known yet
        self.stall_s = 0.0  # that the training thread stood still, in all

    def __enter__(self) -> "Checkpointer":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._hook.remove()
        if kind is None:
            self._settle()
            if self._ranks.writes and self._folder.is_dir():
                self._remove_superseded()  # what was measured last may have changed the best
            self._fellows.close()
        else:
            self._give_up()

    def save(self, is_measured: bool = False) -> None:
        """Begin to write the trainer's state, unless this version has a checkpoint.

        Args:
            is_measured: its accuracy is awaited: where the best are kept it stays until
                `note_score` tells it.

        Raises:
            CheckpointError: the write before failed, or takes more than half an hour.
            Exception: what `commit` raised in the write before.
        """
        began = time.monotonic()
        self._settle()
        version = self._trainer.version
        # The first rank alone knows of a write that failed; all take part in another try.
        if not self._ranks.any(version != self._saved_version):
            return
        waited_s = time.monotonic() - began
        self._cut = take_cut(self._trainer)
        self._saved_version = version
        if is_measured and self._config.checkpoint.keep_best:
            self._awaited.add(version)
        if self._ranks.writes:
            self._prepare_folder()
        # A daemon: `__exit__` waits for it, and once that is given up nothing else is to.
        self._thread = threading.Thread(
            target=self._write, args=(self._cut,), name="checkpoint", daemon=True
        )
        self._thread.start()
        stall_s = time.monotonic() - began
        self.stall_s += stall_s
        logger.info(
            "checkpoint of step %d: begun; training stood still for %.2f s, of which %.2f s for "
            "the write before",
            version, stall_s, waited_s,
        )  # fmt: skip

    def wait(self, timeout_s: float) -> bool:
        """Wait until nothing is being written; return false if it still is after `timeout_s`.

        Raises:
            CheckpointError: the disk refused.
            Exception: what `commit` raised.
        """
        if self._thread is not None:
            self._thread.join(timeout_s)
            if self._thread.is_alive():
                return False
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error
        return True

    def hurry(self) -> None:
        """From now on wait no longer for a disk that is full: the write fails."""
        self._is_hurried = True

    def note_score(self, version: int, accuracy: float | None) -> None:
        """Note the accuracy on full images of a version, once it was saved or is being saved.

        `checkpoint.keep_best` goes by it; of a version without a checkpoint it is forgotten. None
        means that the version will not be measured.
        """
        self._awaited.discard(version)
        if not self._ranks.writes or accuracy is None:
            return
        is_writing = self._thread is not None and version == self._saved_version
        if path_of(self._folder, version).is_dir() or is_writing:
            write_scores(self._folder, {**read_scores(self._folder), version: accuracy})

    def _settle(self) -> None:
        is_written = self.wait(_WRITE_TIMEOUT_S)
        # The first rank waits for room, or gives up, for all of them.
        while not is_written and self._may_still_come():
            is_written = self.wait(_LOOK_S)
        if not is_written:
            raise CheckpointError(
                f"{self._folder}: a checkpoint is not written after {_WRITE_TIMEOUT_S:.0f} s. "
                "Fix: see whether its disk still answers"
            )

    def _give_up(self) -> None:
        self.hurry()
        own_s = _WRITE_TIMEOUT_S if self._ranks.writes else self._config.learner.rank_timeout_s
        try:
            is_written = self.wait(own_s)
        except Exception as error:  # the one that ends the run is the one to see
            logger.warning("a checkpoint was not written: %s", error)
            is_written = True
        if is_written:
            self._fellows.close()
        else:
            logger.warning("a checkpoint is not written after %.0f s, and is given up", own_s)

    def _may_still_come(self) -> bool:
        return (waits_for_room() or not self._ranks.writes) and not self._is_hurried

    def _prepare_folder(self) -> None:
        """Make it, and forget scores of this version's undone past and of what is gone."""
        try:
            when_there_is_room(
                lambda: self._folder.mkdir(parents=True, exist_ok=True), self._folder
            )
        except OSError as error:
            raise _refused(self._folder, error) from error
        scores = read_scores(self._folder)
        kept = {version_of(path) for path in list_checkpoints(self._folder)}
        if not scores.keys() <= kept:
            write_scores(self._folder, {v: scores[v] for v in scores.keys() & kept})

    def _secure(self) -> None:
        """Copy what is not yet written: the weights are about to change."""
        if self._cut is not None:
            began = time.monotonic()
            with spans.span("copy_for_checkpoint", step=self._cut.version):
                self._cut.live.secure()
            self.stall_s += time.monotonic() - began
            self._cut = None

    # ---- the thread ------------------------------------------------------------------------------
    def _write(self, cut: Cut) -> None:
        began = time.monotonic()
        part = part_of(self._folder, cut.version)
        try:
            if self._ranks.writes:
                self._lead(cut, part)
            else:
                self._fellows.follow(lambda: {**write_parts(part, cut, self._start)})
        except (OSError, DiskFull) as error:
            # ConnectionError is one too, and says what it means by itself.
            self._error = error if isinstance(error, ConnectionError) else _refused(part, error)
            self._saved_version = _NEVER
        except Exception as error:  # the boundary of this thread: the training thread raises it
            self._error = error
            self._saved_version = _NEVER
        else:
            now = time.monotonic()
            spans.note("checkpoint", began, now, step=cut.version)
            seconds = now - began
            logger.info("checkpoint of step %d written in %.2f s", cut.version, seconds)
        finally:
            cut.live.release()

    def _lead(self, cut: Cut, part: Path) -> None:
        try:
            self._write_and_rename(cut, part)
        except BaseException as error:
            with contextlib.suppress(RankError):  # who is gone need not be told
                self._fellows.end(error)
            raise
        self._fellows.end()

    def _write_and_rename(self, cut: Cut, part: Path) -> None:
        remove_leftovers(self._folder)
        final = path_of(self._folder, cut.version)
        assert not final.exists(), f"{final} would be overwritten"
        oldest = oldest_target(self._folder, cut.version, self._config.checkpoint.keep)

        def write() -> None:
            try:
                write_checkpoint(part, cut, self._start, self._config, oldest, self._fellows)
            except OSError:
                shutil.rmtree(part, ignore_errors=True)  # others may need the room
                raise

        when_there_is_room(write, part, lambda: self._is_hurried)
        self._commit(cut.version, oldest)
        os.replace(part, final)
        sync(self._folder)
        self._remove_superseded()

    def _remove_superseded(self) -> None:
        keep, keep_best = self._config.checkpoint.keep, self._config.checkpoint.keep_best
        awaited = frozenset(self._awaited)
        remove_superseded(self._folder, read_scores(self._folder), keep, keep_best, awaited)


def _refused(part: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{part}: the checkpoint cannot be written: {error}. Fix: give the disk room, then start "
        "again with run.resume = true; the run goes on from the checkpoint before"
    )
