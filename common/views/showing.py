"""A view of a sample as a model is given it, and what is kept of that in the record."""

import hashlib
from dataclasses import dataclass

from PIL import Image

from common.types import Sample, ShownView
from common.views.registry import view_named
from common.views.settings import ViewSettings
from common.views.texts import followed_by
from common.views.view import View


@dataclass(frozen=True)
class Shown:
    picture: Image.Image  # RGB, of the view's size
    problem: str  # with one "<image>"


def show(
    view: View,
    opened: Image.Image,
    sample: Sample,
    settings: ViewSettings,
    seed: int,
    answer: str | None = None,
) -> Shown:
    """Make a view of a sample.

    Args:
        opened: the picture of `view.source(sample)`.

    Raises:
        DataError: as the view's `picture` and `text`.
    """
    picture = view.picture(opened, sample, settings, seed)
    return Shown(picture, shown_text(view, sample, settings, answer))


def shown_text(
    view: View, sample: Sample, settings: ViewSettings, answer: str | None = None
) -> str:
    """The question with student.hint, as the view puts it. Raises DataError as `View.text`."""
    problem = followed_by(sample.problem, settings.hint, "student.hint")
    return view.text(problem, sample, settings, answer)


def seed_for(view: View, seed: int) -> int:
    """`seed`, or 0 for a view that draws nothing, so that equal views are known to be equal."""
    return seed if view.is_seeded else 0


def derived_seed(run_seed: int, name: str) -> int:
    """The seed, in [0, 2**31), of everything that is drawn for `name`."""
    digest = hashlib.sha256(f"{run_seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def shown_digest(problem: str, fitted: Image.Image) -> str:
    """sha256 of what a model is given: the text and the RGB pixels, in the size that it sees."""
    digest = hashlib.sha256(f"{fitted.width} x {fitted.height}\n{problem}\n".encode())
    digest.update(fitted.tobytes())
    return digest.hexdigest()


def record_of(name: str, settings: ViewSettings, seed: int, sha256: str) -> ShownView:
    """The record of a view that goes with a group.

    Args:
        sha256: `shown_digest` of what was shown.
    """
    view = view_named(name)
    used = seed_for(view, seed)
    return ShownView(name=name, seed=used, note=view.note(settings, used), sha256=sha256)
