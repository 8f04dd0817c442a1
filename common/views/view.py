"""What a view is: a sample's picture and question, as one of the two models is to see them."""

from typing import ClassVar, Literal

from PIL import Image

from common.types import ImageRef, Sample
from common.views.settings import ViewSettings

Size = tuple[int, int]  # width and height in pixels
Role = Literal["student", "teacher"]


class View:
    """The full picture and the question as it is; a kind overrides what it shows otherwise.

    All methods are pure: equal arguments give equal pixels and text, in any process.
    """

    roles: ClassVar[frozenset[Role]]  # who may be shown it in training
    is_seeded: ClassVar[bool] = False  # False: it draws nothing
    shows_answer: ClassVar[bool] = False  # a LABEL

    @property
    def name(self) -> str:
        """The name of the view's module, which configuration and records know it by."""
        return type(self).__module__.rpartition(".")[2]

    def source(self, sample: Sample) -> ImageRef:
        """The picture of the row that it is made of."""
        return sample.image

    def size(self, sample: Sample, settings: ViewSettings) -> Size | None:
        """Size of `picture`, by what the row says. None means that it has no evidence to show."""
        return (sample.image.width, sample.image.height)

    def picture(
        self, opened: Image.Image, sample: Sample, settings: ViewSettings, seed: int
    ) -> Image.Image:
        """The picture that is shown, RGB.

        Args:
            opened: the picture of `source`, which may be shared: it is not changed.

        Raises:
            DataError: no evidence to show, or a box outside the picture.
        """
        return opened

    def text(self, problem: str, sample: Sample, settings: ViewSettings, answer: str | None) -> str:
        """The question, with its one "<image>".

        Args:
            answer: the reference; given only to a view that shows it.

        Raises:
            DataError: the text would ask for two pictures, or has nothing to say.
        """
        return problem

    def note(self, settings: ViewSettings, seed: int) -> str:
        """What was drawn by the seed, for people; empty where nothing was."""
        return ""
