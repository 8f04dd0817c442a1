"""Writes the quickstart's dataset folder: Parquet rows and PNG files named by their content.

    python -m deploy.quickstart.dataset FOLDER --train 4096 --heldout 512 --seed 0

The schema is `common.dataset`'s. `crop` is null: the teacher's view is cut out of the image, round
the box, as the config says. `answer` is for measuring only. Calling it again with the same
parameters does nothing.
"""

import argparse
import hashlib
import io
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from common.dataset_files import write_rows
from common.files import json_object_or_empty, replace_json, replacing
from common.output import ends_with_its_reader
from deploy.quickstart.scenes import SCENE_SIDE, Scene, World, answer, question
from deploy.quickstart.sources import Split

MANIFEST = "manifest.json"
SPLITS: tuple[Split, ...] = ("train", "heldout")
WORLD_VERSION = 1  # raise it whenever the same parameters would give other scenes


@dataclass(frozen=True)
class DatasetParameters:
    """All that decides the content of a dataset folder."""

    num_train: int
    num_heldout: int
    seed: int
    scene_side: int = SCENE_SIDE  # pixels
    world_version: int = WORLD_VERSION

    def num_samples(self, split: Split) -> int:
        return self.num_train if split == "train" else self.num_heldout


def write_dataset(
    folder: Path, parameters: DatasetParameters, report: Callable[[str], None] = lambda line: None
) -> bool:
    """Make `train.parquet`, `heldout.parquet` and `images/` in `folder`.

    Args:
        report: gets a line of progress now and then.

    Returns:
        False when the folder already held exactly this dataset.
    """
    manifest = folder / MANIFEST
    if holds_dataset(folder, parameters):
        return False
    (folder / "images").mkdir(parents=True, exist_ok=True)
    manifest.unlink(missing_ok=True)  # an interrupted rewrite must not look complete
    for split in SPLITS:
        _write_split(folder, split, parameters, report)
    replace_json(manifest, asdict(parameters))
    return True


def holds_dataset(folder: Path, parameters: DatasetParameters) -> bool:
    """Whether it is all there."""
    return json_object_or_empty(folder / MANIFEST) == asdict(parameters) and _is_complete(folder)


def scenes_of(split: Split, count: int, seed: int, side: int = SCENE_SIDE) -> list[Scene]:
    """The first `count` scenes of a split; a smaller count is a prefix of a larger one."""
    rng = np.random.default_rng([seed, SPLITS.index(split)])
    world = World(split)
    return [world.scene(rng, side) for _ in range(count)]


def _is_complete(folder: Path) -> bool:
    import pyarrow.parquet as pq

    try:
        tables = [pq.read_table(folder / f"{split}.parquet", columns=["image"]) for split in SPLITS]
    except (OSError, ValueError):
        return False  # not there, or not Parquet: written again
    return all((folder / name).exists() for t in tables for name in t["image"].to_pylist())


def _write_split(
    folder: Path, split: Split, parameters: DatasetParameters, report: Callable[[str], None]
) -> None:
    count = parameters.num_samples(split)
    rng = np.random.default_rng([parameters.seed, SPLITS.index(split)])
    world = World(split)
    rows = []
    for number in range(count):
        scene = world.scene(rng, parameters.scene_side)
        rows.append(_row(f"{split}-{number:06d}", scene, folder))
        if (number + 1) % 1000 == 0 or number + 1 == count:
            report(f"{split}: {number + 1}/{count} scenes")
    write_rows(rows, folder / f"{split}.parquet")


def _row(sample_id: str, scene: Scene, folder: Path) -> dict[str, Any]:
    content = io.BytesIO()
    Image.fromarray(scene.pixels).save(content, "PNG", compress_level=1)
    digest = hashlib.sha256(content.getvalue()).hexdigest()
    name = f"images/{digest}.png"
    if not (folder / name).exists():
        with replacing(folder / name, str(os.getpid())) as part:  # another one may make it too
            part.write_bytes(content.getvalue())
    height, width, _ = scene.pixels.shape
    return {
        "sample_id": sample_id,
        "image": name,
        "image_sha256": digest,
        "width": width,
        "height": height,
        "box": list(scene.evidence.box),
        "problem": "<image>\n" + question(scene.evidence.color),
        "answer": answer(scene.evidence),
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="deploy.quickstart.dataset", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train", type=int, default=4096, help="training samples (4096)")
    parser.add_argument("--heldout", type=int, default=512, help="samples for measuring (512)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    parameters = DatasetParameters(options.train, options.heldout, options.seed)
    made = write_dataset(options.folder, parameters, report=lambda line: print(line, flush=True))
    print(f"{options.folder}: {'written' if made else 'already there'}")
    return 0


if __name__ == "__main__":
    with ends_with_its_reader():
        sys.exit(main())
