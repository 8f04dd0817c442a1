"""Scenes: coloured tags, each with a handwritten digit, pasted into a window of a photograph.

A question asks for the digit on one tag; that tag is the evidence, a thirtieth of the image. Tags
lie on the grid of the model's image tokens (16 px): without it, reading takes far longer to learn.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from deploy.quickstart.sources import DIGIT_SIDE, Split, load_digits, load_photographs

GRID = 16  # pixels; one image token of the model
TAG_SIDE = 32  # pixels
CROP_SIDE = 64  # pixels; the teacher's view: the tag and a margin of half its side
SCENE_SIDE = 176  # pixels; a tag is then 3.3 % of the image
TAGS_PER_SCENE = (5, 8)  # both inclusive
COLORS: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "green": (40, 170, 60),
    "blue": (50, 80, 220),
    "yellow": (235, 215, 50),
    "purple": (150, 60, 190),
    "orange": (245, 140, 30),
    "cyan": (50, 200, 215),
    "pink": (245, 130, 185),
}
_COLOR_NOISE = 8.0  # standard deviation of a tag's paint, in 8-bit levels
_INK = 15.0  # 8-bit grey level of a digit's stroke


@dataclass(frozen=True)
class Tag:
    color: str
    digit: int
    x: int  # left edge, pixels
    y: int  # upper edge, pixels

    @property
    def box(self) -> tuple[int, int, int, int]:
        """x1, y1, x2, y2 in pixels; x2 and y2 are exclusive."""
        return self.x, self.y, self.x + TAG_SIDE, self.y + TAG_SIDE


@dataclass(frozen=True)
class Scene:
    pixels: np.ndarray  # uint8 [height, width, 3]
    tags: tuple[Tag, ...]  # the first is the one asked about; order and places are random

    @property
    def evidence(self) -> Tag:
        return self.tags[0]


def question(color: str) -> str:
    return f"Which digit is on the {color} tag?"


def answer(tag: Tag) -> str:
    return f"The {tag.color} tag shows {tag.digit}."


def crop_box(tag: Tag, side: int, scene_side: int) -> tuple[int, int, int, int]:
    """The window of `side` pixels round a tag, moved (not shrunk) to stay inside the scene."""
    margin = (side - TAG_SIDE) // 2
    x = min(max(0, tag.x - margin), scene_side - side)
    y = min(max(0, tag.y - margin), scene_side - side)
    return x, y, x + side, y + side


class World:
    """Draws scenes from the photographs and digits of one split; all chance comes from `rng`."""

    def __init__(self, split: Split) -> None:
        self._photographs = load_photographs(split)
        self._ink, self._labels = load_digits(split)

    def scene(
        self,
        rng: np.random.Generator,
        side: int = SCENE_SIDE,
        num_tags: tuple[int, int] = TAGS_PER_SCENE,
    ) -> Scene:
        """One scene of `side` x `side` pixels; the number of tags is uniform in `num_tags`.

        Where the tags drawn so far leave no room, there are fewer.
        """
        pixels = self._background(rng, side)
        places = _places(rng, side, int(rng.integers(num_tags[0], num_tags[1] + 1)))
        colors = rng.permutation(list(COLORS))[: len(places)]
        tags = []
        for (x, y), color in zip(places, colors, strict=True):
            sort = int(rng.integers(len(self._labels)))
            tags.append(Tag(str(color), int(self._labels[sort]), x, y))
            _paste(pixels, tags[-1], self._ink[sort], rng)
        return Scene(pixels, tuple(tags))

    def _background(self, rng: np.random.Generator, side: int) -> np.ndarray:
        photograph = self._photographs[int(rng.integers(len(self._photographs)))]
        x = int(rng.integers(0, photograph.width - side + 1))
        y = int(rng.integers(0, photograph.height - side + 1))
        window = photograph.crop((x, y, x + side, y + side))
        if rng.random() < 0.5:
            window = window.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return np.array(window)


def _places(rng: np.random.Generator, side: int, wanted: int) -> list[tuple[int, int]]:
    """Upper left corners of up to `wanted` tags that do not overlap, in pixels, on the grid."""
    cells = range(0, side - TAG_SIDE + 1, GRID)
    free = [(x, y) for x in cells for y in cells]
    places: list[tuple[int, int]] = []
    for place in rng.permutation(np.array(free)).tolist():
        x, y = place
        if all(abs(x - a) >= TAG_SIDE or abs(y - b) >= TAG_SIDE for a, b in places):
            places.append((x, y))
            if len(places) == wanted:
                break
    return places


def _paste(pixels: np.ndarray, tag: Tag, ink: np.ndarray, rng: np.random.Generator) -> None:
    paint = np.array(COLORS[tag.color]) + rng.normal(0, _COLOR_NOISE, 3)
    face = np.tile(paint, (TAG_SIDE, TAG_SIDE, 1))
    edge = (TAG_SIDE - DIGIT_SIDE) // 2
    inner = face[edge : edge + DIGIT_SIDE, edge : edge + DIGIT_SIDE]
    inner += ink[..., None] * (_INK - inner)
    x1, y1, x2, y2 = tag.box
    pixels[y1:y2, x1:x2] = np.clip(np.round(face), 0, 255).astype(np.uint8)
