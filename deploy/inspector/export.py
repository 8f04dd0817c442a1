"""The inspector's page as one file: the page, and its answers to the questions that matter most.

What is in it: every curve, histogram and table, all held-out scenes, held-out items, the first
trajectories of each list, and the groups where teacher and student differ most, with pictures.
"""

import io
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from PIL import Image, UnidentifiedImageError

from common.files import replace_text
from common.page import picture_url, small_jpeg
from deploy.inspector.answers import Answer, InspectorAnswers, Parameters
from deploy.inspector.web_files import document

logger = logging.getLogger(__name__)
_PAGE = 50  # rows of a list, as the page asks for them (web/source.js)
_SORTS = ("divergence", "divergence_max", "drift_max", "staleness", "length", "step")
_CHANGES = ("all", "gained", "lost", "same")
_INDEX_S = 60.0  # that the index may take; of a run with very many trajectories a part is shown
_GROUPS = 12  # shown token by token
_SIDE = 512  # pixels: larger pictures are made smaller
_KEPT_BYTES = 12_000  # a file that is smaller stays as it is
_PICTURE_BYTES = 1_500_000  # in all; later ones are left out
_NOTE = (
    "This is a file with a part of what was recorded: it holds no more than this. All of it is "
    "shown by: python -m deploy.inspect RUN"
)


def write_export(answers: InspectorAnswers, path: Path) -> Path:
    """Write the file; returns its path. What a run did not get to is left out.

    Raises:
        OSError: it cannot be written.
    """
    answers.until_indexed(_INDEX_S)
    recording = _Recording(answers)
    keys = [run["key"] for run in recording.ask("runs", {})["runs"]]
    for key in keys:
        recording.add_run(key)
    replace_text(path, document(recording.recorded()))
    return path


class _Recording:
    """Answers by question, and pictures as data URLs, until there are enough."""

    def __init__(self, answers: InspectorAnswers) -> None:
        self._source = answers
        self._answers: dict[str, Answer] = {}
        self._pictures: dict[str, str] = {}
        self._room = _PICTURE_BYTES

    def recorded(self) -> dict[str, Any]:
        return {"answers": self._answers, "pictures": self._pictures, "note": _NOTE}

    def ask(self, name: str, parameters: Parameters) -> Answer:
        """The answer, which is recorded; {} if there is none, and then the page says so."""
        try:
            answer = self._source.to(name, parameters) or {}
        except Exception as error:  # whatever a damaged run folder does to one answer
            logger.warning("%s is left out: %s: %s", name, type(error).__name__, error)
            return {}
        self._answers[_question(name, parameters)] = answer
        return answer

    def add_run(self, key: str) -> None:
        run = {"run": key}
        for name in ("curves", "histograms", "columns", "explain", "plan", "quarantined"):
            self.ask(name, run)
        for number, scene in enumerate(self.ask("scenes", run).get("scenes", ())):
            for view in ("full", "crop") if scene else ():
                self._add_picture({**run, "scene": f"{number}", "view": view})
        for change in _CHANGES:
            self.ask("heldout", {**run, "change": change, **_first()})
        for parameters in self._groups(run):
            self._add_group(run, parameters)

    def _groups(self, run: Parameters) -> Iterator[dict[str, str]]:
        """The first groups of the first list; the others are recorded, too."""
        lists = [
            self.ask("trajectories", {**run, "sort": sort, "order": "desc", **_first()})
            for sort in _SORTS
        ]
        rows = lists[0].get("rows", ())
        found = dict.fromkeys((str(row["step"]), row["group_id"]) for row in rows)
        for step, group in list(found)[:_GROUPS]:
            yield {"step": step, "group": group}

    def _add_group(self, run: Parameters, parameters: Parameters) -> None:
        group = self.ask("group", {**run, **parameters})
        for view in ("full", "student", "teacher") if group else ():
            sample = group["sample"]["sample_id"]
            about = {"sample": sample, "view": view, "group": parameters["group"]}
            self._add_picture({**run, **about})

    def _add_picture(self, parameters: Parameters) -> None:
        try:
            content, _ = self._source.picture(parameters)
            url = picture_url(_smaller(content))
        except Exception as error:  # the page says that it is not there
            logger.info("a picture is left out: %s: %s", type(error).__name__, error)
            return
        if url is not None and len(url) <= self._room:
            self._room -= len(url)
            self._pictures[_question("picture", parameters)] = url


def _first() -> dict[str, str]:
    return {"limit": f"{_PAGE}", "offset": "0"}


def _question(name: str, parameters: Parameters) -> str:
    """A question as web/source.js writes it, to the letter."""
    said = sorted((key, value) for key, value in parameters.items() if value != "")
    query = urlencode(said, safe="!'()*", quote_via=quote)  # as encodeURIComponent of browsers
    return f"{name}?{query}" if said else name


def _smaller(content: bytes) -> bytes:
    """The file as it is if it is small; else a JPEG."""
    if len(content) <= _KEPT_BYTES:
        return content
    try:
        with Image.open(io.BytesIO(content)) as picture:
            return small_jpeg(picture.convert("RGB"), _SIDE)
    except (UnidentifiedImageError, ValueError, Image.DecompressionBombError):
        return b""
