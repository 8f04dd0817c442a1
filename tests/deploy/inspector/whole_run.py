"""A small run folder with all that the inspector's page shows; its texts try to be HTML."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.decoders import Fuse
from tokenizers.models import WordLevel

from common.config import RunConfig
from common.config_cli import dump_toml
from common.group import Trajectory, VersionSpan
from common.trained import TOKEN_FIGURES, TrainedGroup
from common.types import FinishReason
from deploy.inspector.heldout import FOLDER as HELDOUT
from tests.deploy.inspector.runs import write_lines
from tests.tiny_world import make_dataset
from tests.trained_rows import Step, write_trained

EVIL = '<img src=x onerror="window.hacked=1">'
WORDS = ["The", " tag", " shows", " 3", " 4", ".", EVIL, "\n"]
ODD = "~* '(\u00e9)!"  # what one library escapes in addresses, and another does not
NUM_STEPS, GROUPS_PER_STEP, NUM_ANSWERS = 8, 4, 3
SUMMARY = {
    "full_accuracy_before": 0.527,
    "full_accuracy_after": 0.869,
    "crop_accuracy_before": 0.941,
    "crop_accuracy_after": 0.947,
    "full_cut_share_before": 0.25,
    "full_cut_share_after": 0.0,
    "version_before": 0,
    "version_after": NUM_STEPS,
    "gap_closed": 0.825,
    "steps": NUM_STEPS,
    "seconds": 97.2,
    "max_staleness_seen": 1,
    "max_staleness": 1,
    "trajectories_trained": NUM_STEPS * GROUPS_PER_STEP * NUM_ANSWERS,
    "trajectories_expired": 0,
    "interrupted": False,
    "data_rows": 16,
    "data_rows_refused": 1,
    "samples_quarantined": 2,
    "first_refused": [f"row 3: {EVIL}"],
}
# Stands for the learner's environment: answers a request for scores at once.
RESCORING = f"""#!{sys.executable}
import json, sys
request = json.load(sys.stdin)
student, teacher = [[" 3", 0.61, 3], [" 4", 0.29, 4]], [[" 4", 0.97, 4], [" 3", 0.02, 3]]
tops = {{"student": student, "teacher": teacher}}
responses = [{{"positions": [tops] * len(ids)}} for ids in request["responses"]]
with open(sys.argv[sys.argv.index("--out") + 1], "w") as file:
    json.dump({{"checkpoint_step": 6, "is_exact": False, "responses": responses}}, file)
"""


def write_run(folder: Path, seed: int = 0, is_over: bool = True) -> Path:
    """The whole folder; returns it."""
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(dump_toml(_config(folder)))
    _write_tokenizer(folder / "tokenizer")
    steps = range(1, NUM_STEPS + 1)
    write_trained(folder, [step_of(step, seed) for step in steps])
    write_lines(folder / "metrics.jsonl", [_metrics(step, seed) for step in steps])
    write_lines(folder / "groups.jsonl", [_columns(step) for step in steps])
    write_lines(folder / "quarantine.jsonl", [_quarantined(number) for number in range(2)])
    for version in (0, 4, NUM_STEPS):
        path = folder / HELDOUT / f"step-{version:06d}.jsonl"
        write_lines(path, [_heldout(number, version) for number in range(12)])
    _write_scenes(folder)
    if is_over:
        (folder / "summary.json").write_text(json.dumps(SUMMARY))
    return folder


def step_of(step: int, seed: int) -> Step:
    """A step: each sample comes again after two steps, with another answer."""
    random = np.random.default_rng(seed + step)
    groups = [_group(step, number, random) for number in range(GROUPS_PER_STEP)]
    size = sum(trajectory.num_tokens for group in groups for trajectory in group.trajectories)
    figures = -random.exponential(1.0, (len(TOKEN_FIGURES), size)).astype(np.float32)
    figures[2:] *= -1  # divergence and entropy
    return step, groups, figures


def _group(step: int, number: int, random: np.random.Generator) -> TrainedGroup:
    """Two answers, and one that the length limit cut."""
    staleness = (step + number) % 2
    rows = [[0, 1, 2, 3 + (step // 4 + index) % 2, 5] for index in range(NUM_ANSWERS - 1)]
    rows.append([0, 6, *[7] * (step % 3), 2])
    trajectories = [
        Trajectory(
            index,
            np.array(ids, np.int32),
            -random.exponential(1.0, len(ids)).astype(np.float32),
            (VersionSpan(step - 1 - staleness, 0, 2), VersionSpan(step - 1, 2, len(ids))),
            step - 1 - staleness,
            FinishReason.LENGTH if 6 in ids else FinishReason.STOP,
        )
        for index, ids in enumerate(rows)
    ]
    sample = (step * GROUPS_PER_STEP + number) % (2 * GROUPS_PER_STEP)
    ages = [staleness] * NUM_ANSWERS
    name = f"{step}/{number}{ODD if number else ''}"
    return TrainedGroup(name, f"s{sample}", trajectories, ages, 10, 12)


def _config(folder: Path) -> RunConfig:
    train = make_dataset(folder.parent / f"{folder.name}-train", 8, seed=1)
    rows = pq.read_table(train).to_pylist()
    rows[0]["problem"] = f"<image>Which {EVIL} digit?"
    pq.write_table(pa.Table.from_pylist(rows), train)
    heldout = make_dataset(folder.parent / f"{folder.name}-heldout", 12, seed=2)
    python = folder.parent / f"{folder.name}-python"
    python.write_text(RESCORING)
    python.chmod(0o700)
    return RunConfig.model_validate(
        {
            "run": {"folder": folder},
            "data": {"train": train, "heldout": heldout},
            "learner": {"max_steps": NUM_STEPS, "groups_per_step": GROUPS_PER_STEP},
            "rollout": {"trajectories_per_sample": NUM_ANSWERS},
            "learner_pool": {"python": python},
        }
    )


def _write_tokenizer(folder: Path) -> None:
    folder.mkdir()
    model = WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token=".")
    tokenizer = Tokenizer(model)
    tokenizer.decoder = Fuse()
    tokenizer.save(str(folder / "tokenizer.json"))


def _metrics(step: int, seed: int) -> dict[str, object]:
    accuracy = {"evaluation/full_accuracy": 0.5 + step / 20, "evaluation/version": step}
    return {
        "step": step,
        "time_s": 10.0 * step,
        "learner/step_s": 8.0,
        "learner/wait_batch_s": 2.0,
        "time/backward_s": 5.0,
        "time/student_forward_s": 3.0,
        "learner/loss_nats": (1 + seed) * 0.1 / step,
        "learner/grad_norm": 0.5,
        "learner/ratio_mean": 1.0,
        "learner/ratio_max": 1.0 + 0.1 * step,
        "staleness/mean_steps": 0.5,
        **(accuracy if step % 4 == 0 else {}),
    }


def _columns(step: int) -> dict[str, object]:
    figures = {"learner/trajectories": 3, "learner/tokens": 15, "learner/entropy_nats": 1.0 / step}
    return {"step": step, "columns": {"source": f"web {EVIL}"}, **figures}


def _quarantined(number: int) -> dict[str, object]:
    reason = f"the picture cannot be decoded {EVIL}"
    return {"sample_id": f"bad-{number}", "where": "rollout", "reason": reason, "attempts": 3}


def _heldout(number: int, version: int) -> dict[str, object]:
    is_right = version > 0 if number < 5 else number != 5 or version == 0
    full = {"text": f"The tag shows {number}. {EVIL}", "is_correct": is_right}
    return {
        "sample_id": f"s{number}",
        "set": "easy" if number % 2 else "hard",
        "question": f"Which digit is on tag {number}?",
        "answer": str(number),
        "full": full,
        "crop": {"text": "It is 3", "is_correct": True},
    }


def _write_scenes(folder: Path) -> None:
    images = folder / "scenes"
    images.mkdir()
    source = folder.parent / f"{folder.name}-heldout" / "images" / "0.png"
    shutil.copy(source, images / "full.png")
    with Image.open(source) as picture:
        picture.crop((8, 8, 24, 24)).save(images / "crop.png")
    tokens = [
        {"text": "It", "divergence_nats": 0.0},
        {"text": f" {EVIL}", "divergence_nats": 0.5},
        {"text": "\n", "divergence_nats": 0.1},
    ]
    answers = {
        "version": 0,
        "full": {"text": "It", "is_correct": False, "tokens": tokens},
        "crop": {"text": "It is 3", "is_correct": True},
    }
    scene = {
        "sample_id": "s0",
        "question": f"Which <digit>? {EVIL}",
        "reference_answer": "3",
        "image": str(images / "full.png"),
        "image_size": [64, 48],
        "box": [8, 8, 24, 24],
        "crop": str(images / "crop.png"),
        "before": answers,
        "after": None,
    }
    (folder / "scenes.json").write_text(json.dumps({"scenes": [scene, {**scene, "box": None}]}))
