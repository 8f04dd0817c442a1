"""What the page may ask: each question by its name, of one of the inspected runs."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from common.errors import ConfigError, DataError
from common.page import picture_kind
from deploy.inspector.inspected_run import InspectedRun
from deploy.inspector.kept_answers import KeptAnswer
from deploy.inspector.scenes import scene_picture, scenes
from deploy.showing.column_tables import column_tables
from deploy.showing.data_lines import data_lines

if TYPE_CHECKING:
    from deploy.inspector.pictures import Name as ViewName

Answer = dict[str, Any]
Parameters = Mapping[str, str]
_VIEWS: dict[str, "ViewName"] = {"full": "full", "student": "student", "teacher": "teacher"}
_LONGEST_SIDE = 1600  # pixels: larger pictures are made smaller
_QUESTIONS: dict[str, Callable[[InspectedRun, Parameters], Answer]] = {
    "curves": lambda run, _: run.curves(),
    "histograms": lambda run, _: run.histograms(),
    "trajectories": lambda run, given: run.trajectories(given),
    "quarantined": lambda run, given: run.quarantined(given),
    "group": lambda run, given: run.group(given),
    "heldout": lambda run, given: run.heldout(given),
    "plan": lambda run, _: run.plan(),
    "scenes": lambda run, _: scenes(run.folder),
    "columns": lambda run, _: {"tables": column_tables(run.folder)},
}


class InspectorAnswers:
    """Answers about one run or two. Any thread may ask.

    Args:
        runs: their keys are those that questions name.
    """

    def __init__(self, runs: Sequence[InspectedRun]) -> None:
        self._runs = {run.key: run for run in runs}
        self._explained = {run.key: KeptAnswer(run.folder, run.explain) for run in runs}

    def to(self, name: str, parameters: Parameters) -> Answer | None:
        """The answer to a question. None means that there is no such question.

        Raises:
            ConfigError, DataError: a parameter that will not do, or nothing to show.
        """
        if name == "runs":
            return {"runs": [_described(run) for run in self._runs.values()]}
        if name == "explain":
            return self._explained[self.run(parameters).key]()
        question = _QUESTIONS.get(name)
        return question and question(self.run(parameters), parameters)

    def picture(self, parameters: Parameters) -> tuple[bytes, str]:
        """A picture file and its kind, e.g. "png".

        Raises:
            ConfigError, DataError: as above; also a file that is no picture.
        """
        run, view = self.run(parameters), parameters.get("view", "full")
        if "scene" in parameters:
            content = scene_picture(run.folder, parameters["scene"], view)
        else:
            if view not in _VIEWS:
                raise ConfigError(f"view = {view!r}: none. Fix: {' or '.join(_VIEWS)}")
            from deploy.inspector.pictures import picture  # with the views it takes 0.2 s to load

            sample, group = parameters.get("sample", ""), parameters.get("group")
            content, _ = picture(run.folder, sample, _VIEWS[view], group, _LONGEST_SIDE)
        kind = picture_kind(content)
        if kind is None:  # nothing else leaves this machine, whatever a run folder names
            raise DataError("the file is no picture that browsers show")
        return content, kind

    def until_indexed(self, limit_s: float) -> None:
        """Wait until all trajectories are indexed, for so long at most a run."""
        for run in self._runs.values():
            run.until_indexed(limit_s)

    def run(self, parameters: Parameters) -> InspectedRun:
        """The run that a question is about. Raises ConfigError."""
        key = parameters.get("run", "a")
        if key not in self._runs:
            raise ConfigError(f"run = {key!r}: none. Fix: {' or '.join(self._runs)}")
        return self._runs[key]


def as_json(answer: Any, **layout: Any) -> str:
    """JSON that browsers read: what is no finite number is null there."""
    try:
        return json.dumps(answer, allow_nan=False, **layout)
    except ValueError:
        return json.dumps(_finite(answer), allow_nan=False, **layout)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _described(run: InspectedRun) -> Answer:
    """Its entry in `runs`, with a line on the data that could not be used."""
    told = run.describe()
    lines = data_lines(told["summary"]) if "data_rows" in told["summary"] else []
    return {**told, "notes": [*told["notes"], *lines]}
