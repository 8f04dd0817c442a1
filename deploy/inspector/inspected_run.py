"""A run that the inspector shows: each of its answers, as its API names them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from common.errors import ConfigError, DataError, VisionOpdError
from deploy.inspector import curves, explanations, groups, histograms, quarantined, queries
from deploy.inspector.figures import RunFigures
from deploy.inspector.heldout import CHANGES, HeldoutItems
from deploy.inspector.index import IndexReader
from deploy.inspector.index_files import FOLDER, cache_folder, index_folder, trained_sizes
from deploy.inspector.index_worker import IndexWorker
from deploy.inspector.query import MAX_LIMIT, TrajectoryQuery, number_of
from deploy.inspector.run_folder import RunFolder
from deploy.inspector.tokens import TokenDecoder
from deploy.inspector.trained_rows import TrainedRows

Parameters = Mapping[str, str]
Answer = dict[str, Any]
Result = TypeVar("Result")
_TRIES = 3


class InspectedRun:
    """Answers of a run, as dicts for JSON. A context; any thread may ask.

    It writes nothing but its index. Every answer may be asked for at any time of a run.

    Args:
        key: "a" or "b".
        cache: folder of indexes for runs that cannot be written to. None means this user's.

    Raises:
        ConfigError: there is no such folder.
    """

    def __init__(self, key: str, folder: Path, cache: Path | None = None) -> None:
        if not folder.is_dir():
            raise ConfigError(f"RUN = {str(folder)!r}: no such folder. Fix: name a run folder")
        self.key = key
        self.folder = folder
        self._files = RunFolder(folder)
        self._figures = RunFigures(folder)
        self._heldout = HeldoutItems(folder)
        self._texts = TokenDecoder(folder)
        self._trained = TrainedRows(folder)
        self.index_folder = index_folder(folder, cache or cache_folder())
        self._reader = IndexReader(self.index_folder)
        self._worker = IndexWorker(folder, self.index_folder)

    def __enter__(self) -> "InspectedRun":
        self._worker.wake()
        return self

    def __exit__(self, *_: object) -> None:
        self._worker.close()

    def until_indexed(self, limit_s: float) -> None:
        """Wait until what is there is indexed, for so long at most."""
        self._worker.wake()
        self._worker.wait(limit_s)

    def describe(self) -> Answer:
        """The run's entry in `runs`."""
        self._figures.look()
        summary, step = self._files.summary(), self._figures.step
        return {
            "key": self.key,
            "name": self.folder.resolve().name,
            "folder": str(self.folder),
            "state": self._files.state(step),
            "step": step,
            "total_steps": self._files.total_steps(),
            "seconds": summary.get("seconds") or self._figures.time_s,
            "notes": self._notes(step),
            "has": self._files.has(),
            "summary": summary,
        }

    def curves(self) -> Answer:
        return curves.curves(self._figures)

    def histograms(self) -> Answer:
        self._indexed()
        return histograms.histograms(self._reader.now())

    def trajectories(self, parameters: Parameters) -> Answer:
        """A page of trajectories. Raises ConfigError: a parameter that will not do."""
        query = TrajectoryQuery.of(parameters)
        indexed = self._indexed()  # first: if a file has gone, the index without it is asked for
        found = _again(
            lambda: queries.trajectories(query, self._reader, self._trained, self._texts)
        )
        return {**found, "indexed": indexed}

    def _indexed(self) -> Answer:
        """How far the trajectories are indexed: bytes of RUN/trained, of_bytes in all.

        What is missing is asked for.
        """
        manifest = self._reader.now().manifest
        sizes = trained_sizes(self.folder)
        is_complete = manifest.covers(sizes)
        if not is_complete:
            self._worker.wake()
        return {
            "rows": manifest.rows,
            "bytes": sum(file.offset for file in manifest.files),
            "of_bytes": sum(sizes.values()),
            "is_complete": is_complete,
        }

    def quarantined(self, parameters: Parameters) -> Answer:
        """A page of quarantined samples. Raises ConfigError: a parameter that will not do."""
        return quarantined.quarantined(self.folder, *_page(parameters))

    def group(self, parameters: Parameters) -> Answer:
        """A group by `step` and `group`.

        Raises:
            ConfigError: a parameter that will not do.
            DataError: there is no such group.
        """
        step = number_of("step", parameters.get("step", ""))
        clip = self._files.setting("objective", "importance_clip")
        return _again(
            lambda: groups.group(
                step,
                parameters.get("group", ""),
                self._reader.now(),
                self._trained,
                self._texts,
                self._files.train_file(),
                float(clip) if isinstance(clip, int | float) else None,
            )
        )

    def heldout(self, parameters: Parameters) -> Answer:
        """A page of held-out items. Raises ConfigError: a parameter that will not do."""
        change = parameters.get("change") or "all"
        if change not in CHANGES:
            raise ConfigError(f"change = {change!r}: not known. Fix: {', '.join(CHANGES)}")
        set_name, text = (parameters.get(name) or None for name in ("set", "text"))
        return self._heldout.page(change, set_name, text, *_page(parameters))

    def explain(self) -> Answer:
        return explanations.explanation(self.folder)

    def plan(self) -> Answer:
        return explanations.plan(self.folder)

    def _notes(self, step: int) -> list[str]:
        notes = self._files.notes(step) + self._figures.notes()
        if self._files.has()["trajectories"]:
            notes += filter(None, (self._texts.note(), self._worker.note()))
            manifest = self._reader.now().manifest
            notes += [file.problem for file in manifest.files if file.problem]
            is_over = self._files.state(step) not in ("starting", "training")
            notes += manifest.unread(trained_sizes(self.folder), is_over)
            if self.index_folder != self.folder / FOLDER:
                notes.append(
                    f"the run folder cannot be written: its index is in {self.index_folder}"
                )
        return notes


def _page(parameters: Parameters) -> tuple[int, int]:
    """Limit and offset. Raises ConfigError."""
    limit = number_of("limit", parameters.get("limit") or "50")
    return min(limit, MAX_LIMIT), number_of("offset", parameters.get("offset") or "0")


def _again(ask: Callable[[], Result]) -> Result:
    """An answer; where a file went meanwhile (an index is merged, or removed) it is asked again.

    Raises:
        DataError: it cannot be given.
    """
    for left in reversed(range(_TRIES)):
        try:
            return ask()
        except VisionOpdError:
            raise
        except (OSError, ValueError) as error:
            if not left:
                raise DataError(f"it cannot be read: {error}. Fix: ask again") from error
    raise AssertionError
