"""The real pixels behind the scenes: photographs and handwritten digits that ship in packages.

Files are read where scikit-image and scikit-learn installed them; nothing is downloaded.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from common.errors import DataError

Split = Literal["train", "heldout"]

# No photograph, and no view of the same object, stands on both sides.
PHOTOGRAPHS: dict[Split, tuple[tuple[str, str], ...]] = {
    "train": (
        ("skimage", "data/astronaut.png"),
        ("skimage", "data/brick.png"),
        ("skimage", "data/gravel.png"),
        ("skimage", "data/hubble_deep_field.jpg"),
        ("skimage", "data/ihc.png"),
        ("skimage", "data/motorcycle_left.png"),
        ("skimage", "data/retina.jpg"),
        ("skimage", "data/rocket.jpg"),
        ("sklearn", "datasets/images/china.jpg"),
    ),
    "heldout": (
        ("skimage", "data/chelsea.png"),
        ("skimage", "data/coffee.png"),
        ("skimage", "data/grass.png"),
        ("sklearn", "datasets/images/flower.jpg"),
    ),
}
PHOTOGRAPH_SHORT_SIDE = 420  # pixels
DIGIT_SIDE = 24  # pixels
NUM_TRAIN_DIGITS = 1400  # of 1,797
_DIGIT_SPLIT_SEED = 1797  # of the one fixed division into training and held-out digits


def load_photographs(split: Split) -> list[Image.Image]:
    """RGB photographs of a split, shorter side PHOTOGRAPH_SHORT_SIDE pixels.

    Raises:
        DataError: a file is not where its package should have it.
    """
    return [_load_photograph(package, name) for package, name in PHOTOGRAPHS[split]]


def load_digits(split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Handwritten digits of a split.

    Returns:
        ink, float32 [N, DIGIT_SIDE, DIGIT_SIDE] from 0 (paper) to 1 (ink), and labels, int64 [N].
    """
    from sklearn.datasets import load_digits as load_sklearn_digits

    digits = load_sklearn_digits()
    chosen = digit_indices(split, len(digits.target))
    size = (DIGIT_SIDE, DIGIT_SIDE)
    ink = [
        np.asarray(
            Image.fromarray(np.round(image * (255 / 16)).astype(np.uint8)).resize(
                size, Image.Resampling.BICUBIC
            ),
            dtype=np.float32,
        )
        / 255
        for image in digits.images[chosen]
    ]
    return np.stack(ink), np.asarray(digits.target[chosen], dtype=np.int64)


def digit_indices(split: Split, count: int) -> np.ndarray:
    """Which of scikit-learn's `count` digits belong to a split: int64, disjoint and complete."""
    order = np.random.default_rng(_DIGIT_SPLIT_SEED).permutation(count)
    return order[:NUM_TRAIN_DIGITS] if split == "train" else order[NUM_TRAIN_DIGITS:]


def _load_photograph(package: str, name: str) -> Image.Image:
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise DataError(f"package {package} is missing. Fix: pip install '.[quickstart]'")
    path = Path(spec.origin).parent / name
    try:
        with Image.open(path) as file:
            photograph = file.convert("RGB")
    except OSError as error:
        raise DataError(
            f"photograph {path}: {error}. Fix: reinstall {package} as pip install '.[quickstart]'"
        ) from error
    scale = PHOTOGRAPH_SHORT_SIDE / min(photograph.size)
    size = (round(photograph.width * scale), round(photograph.height * scale))
    return photograph.resize(size, Image.Resampling.BICUBIC)
