"""What the starting checkpoint is taught, in which order. Labels are used here and nowhere else.

No lesson tells a digit in a full image: the model learns to name colours and read digits on single
tags, to tell two tags apart, and to answer about the evidence crop; of full images it only learns
how an answer is worded. To find one tag among many it has never been taught, and it does about half
of the time. That is the gap between crop and full image that label-free training then closes.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from deploy.quickstart.scenes import CROP_SIDE, TAG_SIDE, Tag, World, crop_box


@dataclass(frozen=True)
class View:
    pixels: np.ndarray  # uint8 [height, width, 3]
    tags: tuple[Tag, ...]  # those that may be asked about


@dataclass(frozen=True)
class Exercise:
    """One kind of batch."""

    draw: Callable[[World, np.random.Generator], View]
    views: int
    questions_per_view: int
    names_colors: bool = False  # the first question leaves the colour out: the answer names it
    tells_digit: bool = True  # False: the answer's digit is not learnt, only its other words


@dataclass(frozen=True)
class Lesson:
    name: str
    exercises: tuple[Exercise, ...]  # in turn, one a step
    steps: int
    lr: float
    final_lr_share: float  # linear decay to this share of lr


def single_tag(world: World, rng: np.random.Generator) -> View:
    scene = world.scene(rng, TAG_SIDE, (1, 1))
    return View(scene.pixels, scene.tags)


def tag_pair(world: World, rng: np.random.Generator) -> View:
    """Two tags of different colours side by side: where colours begin to matter.

    Without this lesson a model reads whatever lies in the middle of the crop.
    """
    left = single_tag(world, rng)
    right = single_tag(world, rng)
    while right.tags[0].color == left.tags[0].color:
        right = single_tag(world, rng)
    tag = right.tags[0]
    pixels = np.concatenate([left.pixels, right.pixels], axis=1)
    return View(pixels, (left.tags[0], Tag(tag.color, tag.digit, TAG_SIDE, 0)))


def evidence_crop(world: World, rng: np.random.Generator) -> View:
    """The teacher's view of a scene, with whatever lies round the evidence."""
    scene = world.scene(rng)
    side = scene.pixels.shape[0]
    x1, y1, x2, y2 = crop_box(scene.evidence, CROP_SIDE, side)
    return View(scene.pixels[y1:y2, x1:x2], (scene.evidence,))


def full_image(world: World, rng: np.random.Generator) -> View:
    scene = world.scene(rng)
    return View(scene.pixels, scene.tags)


# Naming colours first is what makes telling tags apart quick: the picture's colours then already
# lie where the words for them do. More crops would read better, but also find more by themselves.
LESSONS = (
    Lesson("single tags", (Exercise(single_tag, 64, 2, names_colors=True),), 160, 1.5e-3, 0.5),
    Lesson("pairs", (Exercise(tag_pair, 64, 2),), 100, 1e-3, 1.0),
    Lesson(
        "crops",
        (
            Exercise(evidence_crop, 64, 1),
            Exercise(evidence_crop, 64, 1),
            Exercise(full_image, 12, 2, tells_digit=False),
        ),
        66,
        1.2e-3,
        0.05,
    ),
)
