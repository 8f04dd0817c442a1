"""What the page may ask: each question by its name, of one of the inspected runs."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from common.errors import ConfigError, DataError
from common.page import picture_kind
from deploy.inspector.inspected_run import InspectedRun
from deploy.inspector.scenes import scene_picture, scenes
from deploy.showing.column_tables import column_tables

Answer = dict[str, Any]
Parameters = Mapping[str, str]

_QUESTIONS: dict[str, Callable[[InspectedRun, Parameters], Answer]] = {
    "curves": lambda run, _: run.curves(),
    "histograms": lambda run, _: run.histograms(),
    "trajectories": lambda run, given: run.trajectories(given),
    "quarantined": lambda run, given: run.quarantined(given),
    "group": lambda run, given: run.group(given),
    "heldout": lambda run, given: run.heldout(given),
    "explain": lambda run, _: run.explain(),
    "plan": lambda run, _: run.plan(),
    "scenes": lambda run, _: scenes(run.folder),
    "columns": lambda run, _: {"tables": column_tables(run.folder)},
}


class Answers:
    """Answers about one run or two. Any thread may ask.

    Args:
        runs: their keys are those that questions name.
    """

    def __init__(self, runs: Sequence[InspectedRun]) -> None:
        self._runs = {run.key: run for run in runs}

    def to(self, name: str, parameters: Parameters) -> Answer | None:
        """The answer to a question. None means that there is no such question.

        Raises:
            ConfigError, DataError: a parameter that will not do, or nothing to show.
        """
        if name == "runs":
            return {"runs": [run.describe() for run in self._runs.values()]}
        question = _QUESTIONS.get(name)
        return question and question(self._run(parameters), parameters)

    def picture(self, parameters: Parameters) -> tuple[bytes, str]:
        """A picture file and its kind, e.g. "png".

        Raises:
            ConfigError, DataError: as above; also a file that is no picture.
        """
        run, view = self._run(parameters), parameters.get("view", "full")
        if "scene" in parameters:
            content = scene_picture(run.folder, parameters["scene"], view)
        else:
            content = b""
        kind = picture_kind(content)
        if kind is None:  # nothing else leaves this machine, whatever a run folder names
            raise DataError("the file is no picture that browsers show")
        return content, kind

    def _run(self, parameters: Parameters) -> InspectedRun:
        key = parameters.get("run", "a")
        if key not in self._runs:
            raise ConfigError(f"run = {key!r}: none. Fix: {' or '.join(self._runs)}")
        return self._runs[key]
