import itertools

import numpy as np
import pytest

from deploy.quickstart import scenes
from deploy.quickstart.scenes import CROP_SIDE, GRID, SCENE_SIDE, TAG_SIDE, World, crop_box
from deploy.quickstart.sources import PHOTOGRAPHS, digit_indices, load_digits, load_photographs


@pytest.fixture(scope="module")
def world() -> World:
    return World("heldout")


def drawn(world: World, seed: int, count: int = 60) -> list[scenes.Scene]:
    rng = np.random.default_rng(seed)
    return [world.scene(rng) for _ in range(count)]


def test_scenes_are_the_same_for_one_seed_and_differ_between_seeds(world: World) -> None:
    first, again, other = drawn(world, 3, 5), drawn(world, 3, 5), drawn(world, 4, 5)
    for a, b, c in zip(first, again, other, strict=True):
        assert np.array_equal(a.pixels, b.pixels)
        assert a.tags == b.tags
        assert not np.array_equal(a.pixels, c.pixels)


def test_scenes_have_five_to_eight_tags_of_different_colors_on_the_grid(world: World) -> None:
    counts = set()
    for scene in drawn(world, 0):
        assert scene.pixels.shape == (SCENE_SIDE, SCENE_SIDE, 3)
        assert scene.pixels.dtype == np.uint8
        counts.add(len(scene.tags))
        assert len({tag.color for tag in scene.tags}) == len(scene.tags)
        for tag in scene.tags:
            assert tag.x % GRID == tag.y % GRID == 0
            assert min(tag.box) >= 0
            assert max(tag.box) <= SCENE_SIDE
        for a, b in itertools.combinations(scene.tags, 2):
            assert abs(a.x - b.x) >= TAG_SIDE or abs(a.y - b.y) >= TAG_SIDE
    assert counts == {5, 6, 7, 8}


def test_evidence_is_at_most_six_percent_of_the_image() -> None:
    assert TAG_SIDE**2 / SCENE_SIDE**2 <= 0.06


def test_a_tag_shows_its_color_in_its_border(world: World) -> None:
    for scene in drawn(world, 1, 20):
        for tag in scene.tags:
            border = scene.pixels[tag.y, tag.x : tag.x + TAG_SIDE].astype(float).mean(axis=0)
            nearest = min(
                scenes.COLORS, key=lambda name: np.abs(border - scenes.COLORS[name]).sum()
            )
            assert nearest == tag.color


def test_crop_box_holds_the_evidence_and_stays_inside(world: World) -> None:
    for scene in drawn(world, 2):
        x1, y1, x2, y2 = crop_box(scene.evidence, CROP_SIDE, SCENE_SIDE)
        left, top, right, bottom = scene.evidence.box
        assert (x2 - x1, y2 - y1) == (CROP_SIDE, CROP_SIDE)
        assert 0 <= x1 <= left < right <= x2 <= SCENE_SIDE
        assert 0 <= y1 <= top < bottom <= y2 <= SCENE_SIDE


def test_the_asked_tag_lies_anywhere(world: World) -> None:
    corners = np.array([scene.evidence.box[:2] for scene in drawn(world, 5, 200)])
    middle = (SCENE_SIDE - TAG_SIDE) / 2
    assert (np.abs(corners.mean(axis=0) - middle) < GRID).all()
    assert (np.ptp(corners, axis=0) == 2 * middle).all()


def test_splits_share_no_photograph_and_no_digit() -> None:
    assert not set(PHOTOGRAPHS["train"]) & set(PHOTOGRAPHS["heldout"])
    train, heldout = digit_indices("train", 1797), digit_indices("heldout", 1797)
    assert sorted([*train, *heldout]) == list(range(1797))
    assert len(load_digits("heldout")[0]) == 397
    ink, labels = load_digits("train")
    assert ink.shape == (1400, 24, 24)
    assert 0 <= ink.min() < ink.max() <= 1
    assert set(labels) == set(range(10))


def test_photographs_are_large_enough_for_a_scene() -> None:
    for split in ("train", "heldout"):
        for photograph in load_photographs(split):
            assert photograph.mode == "RGB"
            assert min(photograph.size) >= SCENE_SIDE
