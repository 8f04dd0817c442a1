"""What a model is shown of a sample, by the registry, for tests."""

from PIL import Image

from common.config import RunConfig, StudentSection, TeacherSection
from common.images import ImageStore
from common.types import Sample
from common.views.registry import view_named
from common.views.settings import ViewSettings
from common.views.showing import Shown, show


def settings_of(
    student: StudentSection | None = None, teacher: TeacherSection | None = None
) -> ViewSettings:
    return ViewSettings.of(
        RunConfig(student=student or StudentSection(), teacher=teacher or TeacherSection())
    )


def shown_to(
    name: str,
    sample: Sample,
    images: ImageStore,
    settings: ViewSettings,
    seed: int = 0,
    answer: str | None = None,
) -> Shown:
    view = view_named(name)
    return show(view, images.open(view.source(sample)), sample, settings, seed, answer)


def teacher_picture(
    sample: Sample, images: ImageStore, teacher: TeacherSection, seed: int = 0
) -> Image.Image:
    return shown_to(teacher.view, sample, images, settings_of(teacher=teacher), seed, "").picture
