"""A dataset, read with all that can be known of it before a token is generated.

    rows ---> types, paths, boxes ---> shapes, prompt lengths ---> headers of pictures ---> samples
                     |                          |                          |
                     '--------------------------+--------------------------'---> bad rows, by name

What the first two say follows from the file, the configuration and the model's folder. The third
depends on files that may come and go, and takes longer, so a run keeps what it said (`Kept`).
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.bad_rows import BadField, BadRow
from common.config import RunConfig
from common.control_tokens import control_tokens_of_folder
from common.dataset import Numbered, check_any, parsed_rows
from common.picture_checks import check_pictures
from common.prompt_lengths import lengths_of_folder
from common.sample_checks import SampleRules, check_all_boxes, check_sample
from common.types import Sample
from common.views.settings import ViewSettings


@dataclass(frozen=True)
class Reading:
    """What a dataset holds."""

    path: Path
    samples: list[Sample]
    bad_rows: list[BadRow]  # in the order of the file
    num_rows: int
    digest: str  # digest of the rows that `parsed_rows` lets through
    settings: str  # digest of what else decided, but for the model
    warnings: tuple[str, ...] = ()  # about the set as a whole

    def check_any(self) -> "Reading":
        """Return the reading; raises DataError where no row is good."""
        check_any(self.path, self.samples, self.bad_rows)
        return self


def read_checked(
    config: RunConfig, path: Path, look: Callable[[int, int], None] = lambda done, of: None
) -> Reading:
    """Read a dataset and check all of it, its pictures included.

    Args:
        look: called now and then with the number of samples looked at, and of all.

    Raises:
        DataError: the file cannot be used, or no row of it.
    """
    good, bad, digest = _parsed(path)
    num_rows = len(good) + len(bad)
    good = _sift(good, bad, rules_of(config))
    problem, warning = check_all_boxes(good)
    if problem is not None:
        bad += [problem.in_row(n.row, n.sample.sample_id) for n in good if n.sample.box]
        good = [n for n in good if n.sample.box is None]
    good = _with_pictures(good, bad, path.parent, look)
    bad.sort(key=lambda row: row.row)
    samples = [n.sample for n in good]
    warnings = (warning,) if warning else ()
    found = Reading(path, samples, bad, num_rows, digest, settings_digest(config), warnings)
    return found.check_any()


def read_again(config: RunConfig, path: Path, kept: Sequence[BadRow] | None) -> Reading:
    """Read a dataset without looking at pictures.

    Args:
        kept: the bad rows of an earlier reading, which then decide; None means those that the rows,
            the configuration and the model's folder tell of.

    Raises:
        DataError: the file cannot be used; that no row is good is no error here.
    """
    good, bad, digest = _parsed(path)
    num_rows = len(good) + len(bad)
    if kept is None:
        good = _sift(good, bad, rules_of(config))
        bad.sort(key=lambda row: row.row)
        samples = [n.sample for n in good]
        return Reading(path, samples, bad, num_rows, digest, settings_digest(config))
    refused = {row.row for row in kept}
    samples = [n.sample for n in good if n.row not in refused]
    return Reading(path, samples, list(kept), num_rows, digest, settings_digest(config))


def rules_of(config: RunConfig) -> SampleRules:
    """The rules by which samples of this run are judged."""
    return SampleRules(
        views=ViewSettings.of(config),
        max_pixels=int(config.data.max_picture_megapixels * 1e6),
        max_prompt_tokens=config.model.max_prompt_tokens,
        control_tokens=control_tokens_of_folder(Path(config.model.path)),
        lengths=lengths_of_folder(Path(config.model.path), config.prompt),
    )


def settings_digest(config: RunConfig) -> str:
    """A digest that is equal for configurations of one model that judge rows alike."""
    decisive = {
        "views": ViewSettings.of(config).model_dump(mode="json"),
        "prompt": config.prompt.model_dump(mode="json"),
        "max_prompt_tokens": config.model.max_prompt_tokens,
        "max_picture_megapixels": config.data.max_picture_megapixels,
    }
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def _parsed(path: Path) -> tuple[list[Numbered], list[BadRow], str]:
    good: list[Numbered] = []
    bad: list[BadRow] = []
    digest = hashlib.sha256()
    for found in parsed_rows(path):
        if isinstance(found, BadRow):
            bad.append(found)
            continue
        good.append(found)
        digest.update(f"{found.row} {found.sample.model_dump_json()}\n".encode())
    return good, bad, digest.hexdigest()


def _sift(good: Sequence[Numbered], bad: list[BadRow], rules: SampleRules) -> list[Numbered]:
    left: list[Numbered] = []
    for numbered in good:
        try:
            check_sample(numbered.sample, rules)
            left.append(numbered)
        except BadField as error:
            bad.append(error.in_row(numbered.row, numbered.sample.sample_id))
    return left


def _with_pictures(
    good: Sequence[Numbered], bad: list[BadRow], folder: Path, look: Callable[[int, int], None]
) -> list[Numbered]:
    left: list[Numbered] = []
    problems = check_pictures([n.sample for n in good], folder)
    for done, (numbered, problem) in enumerate(zip(good, problems, strict=True), start=1):
        if problem is None:
            left.append(numbered)
        else:
            bad.append(problem.in_row(numbered.row, numbered.sample.sample_id))
        look(done, len(good))
    return left
