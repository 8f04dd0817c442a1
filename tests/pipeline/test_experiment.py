"""From a person's own pictures to evidence, by the commands alone.

JSON Lines and JPEGs > prepare > gap > accuracy > train > export > serve > accuracy > compare > gap
"""

import contextlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from deploy.quickstart.dataset import DatasetParameters, write_dataset
from deploy.quickstart.own import SEED
from tests.deploy.quickstart.support import Launched

ROOT = Path(__file__).resolve().parents[2]
CHECKPOINT = ROOT / "deploy" / "quickstart" / "checkpoint"
TRAIN, HELDOUT = 640, 128
STEPS = TRAIN // 32
CROP = ("--crop-margin", "0.5", "--crop-scale", "1")  # as in the quickstart's configuration
SERVED = ("--engine", "embedded", "--weights.dtype", "float32")
ASKED = ("--max-tokens", "12", *CROP)


def python(module: str, *arguments: str | Path) -> str:
    """What `python -m module` prints."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def as_own_rows(world: Path, split: str, out: Path) -> None:
    """The quickstart's scenes as a person would have them: JPEGs, and a JSON object a line."""
    (out / "pictures").mkdir(parents=True)
    lines = []
    for row in pq.read_table(world / f"{split}.parquet").to_pylist():
        name = f"pictures/{row['sample_id']}.jpg".replace(" ", "_")
        with Image.open(world / row["image"]) as picture:
            picture.save(out / name, quality=95, subsampling=0)
        question = row["problem"].removeprefix("<image>\n")
        lines.append({"image": name, "question": question, "box": row["box"]})
        lines[-1] |= {"answer": row["answer"], "source": "quickstart"}
    (out / "rows.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def prepared(own: Path, out: Path) -> Path:
    said = python(
        "common.prepare", "custom", "--input", own / "rows.jsonl", "--images", own,
        "--box-units", "pixels", "--box-form", "xyxy", "--out", out,
    )  # fmt: skip
    assert "0 left out" in said
    return out / "train.parquet"


@contextlib.contextmanager
def served(checkpoint: Path) -> Iterator[tuple[str, Path]]:
    """URL of `rollout.serve` and the file with its key."""
    command = [sys.executable, "-m", "rollout.serve", str(checkpoint), *SERVED, "--port", "0"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            said = ""
            while "OPENAI_API_KEY" not in said:
                said += (line := server.stdout.readline())
                assert line, said
            found = re.search(r'BASE_URL=(\S+) OPENAI_API_KEY="\$\(cat (\S+)\)"', said)
            assert found is not None, said
            yield found[1], Path(found[2])
        finally:
            server.terminate()
            server.communicate(timeout=60)
    assert server.returncode == 0


def gap_of(folder: Path, heldout: str) -> dict[str, Any]:
    """Both accuracies and their difference."""
    found = {}
    for view in ("full", "crop"):
        result = json.loads((folder / view / "result.json").read_text())
        (figures,) = result["sets"].values()
        found[view] = figures["figures"][figures["headline"]]["value"]
        assert figures["failed"] == 0
    return {**found, "gap": found["crop"] - found["full"]}


@pytest.mark.minutes(2.5)
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_own_pictures_are_prepared_trained_on_and_measured(tmp_path: Path) -> None:
    write_dataset(tmp_path / "world", DatasetParameters(TRAIN, HELDOUT, SEED))
    for split in ("train", "heldout"):
        as_own_rows(tmp_path / "world", split, tmp_path / f"own-{split}")
    train = prepared(tmp_path / "own-train", tmp_path / "train")
    heldout = f"custom:{prepared(tmp_path / 'own-heldout', tmp_path / 'heldout')}"
    assert "source" in pq.read_schema(train).names

    start = ("--checkpoint", CHECKPOINT, *SERVED)
    said = python("rollout.gap", *start, "--sets", heldout, *ASKED, "--out", tmp_path / "gap-0")
    assert "There is something to teach here" in said
    python("rollout.evaluate", *start, "--sets", heldout, *ASKED, "--out", tmp_path / "before")

    run = Launched(
        tmp_path / "run", "--data.train", str(train), "--data.heldout", "none",
        "--evaluation.every_steps", "0", "--learner.max_steps", str(STEPS),
    )  # fmt: skip
    assert run.process.wait(500) == 0, run.output()
    step = tmp_path / "run" / "checkpoints" / f"step-{STEPS:06d}"
    python("learner.export", step, tmp_path / "exported", "--model", "student")

    with served(tmp_path / "exported") as (url, key):
        there = ("--endpoint", url, "--api-key-file", key, "--no-thinking")
        python("rollout.evaluate", *there, "--sets", heldout, *ASKED, "--out", tmp_path / "after")
        python("rollout.gap", *there, "--sets", heldout, *ASKED, "--out", tmp_path / "gap-1")
    python(
        "rollout.compare", tmp_path / "before", tmp_path / "after", "--out", tmp_path / "compared"
    )

    before, after = (gap_of(tmp_path / f"gap-{number}", heldout) for number in (0, 1))
    assert before["gap"] > 0.3 and after["gap"] < before["gap"] / 2
    assert after["full"] > before["full"] + 0.15
    (compared,) = json.loads((tmp_path / "compared" / "compare.json").read_text())["sets"].values()
    assert compared["all"]["low"] > 0 and compared["all"]["p"] < 0.001
    gained = sum(item["change"] == "gained" for item in compared["changed"])
    assert gained == compared["all"]["only_b"] > compared["all"]["only_a"]
    assert "<img" in (tmp_path / "compared" / "compare.html").read_text()
