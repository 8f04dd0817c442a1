"""Small files of the published sets' true schema, as they lie on the hub."""

import base64
import csv
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

_DIRECTLY = "Answer with the option's letter from the given choices directly."


def picture(number: int, kind: str = "JPEG") -> bytes:
    """A file that differs from those of other numbers."""
    content = io.BytesIO()
    Image.new("RGB", (32, 24), (number % 256, 40, 200)).save(content, kind)
    return content.getvalue()


def write_set(name: str, folder: Path, count: int) -> Path:
    """Files of `count` rows. Returns the folder."""
    if name == "visualprobe":
        _write_visualprobe(folder, count)
        return folder
    half = count // 2
    rows = [_ROWS[name](number) for number in range(count)]
    if name == "cv-bench":
        rows[half:] = [cv_bench_row(number, "3D") for number in range(count - half)]
    return write_rows(name, folder, rows)


def write_rows(name: str, folder: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """Files of these rows, in the set's own columns. Returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    half = len(rows) // 2
    if name == "mmvp":
        _write_mmvp(folder, rows)
    elif name == "cv-bench":
        for kind in ("2D", "3D"):
            part = [row for row in rows if row["type"] == kind]
            _write_parquet(folder / f"test_{kind.lower()}.parquet", part)
    elif name.startswith("mme-realworld"):
        for number, part in enumerate(filter(None, (rows[:half], rows[half:]))):
            _write_parquet(folder / f"data/train-0000{number}-of-00002.parquet", part)
    else:
        _write_parquet(folder / _FILES[name], rows)
    return folder


def image(number: int) -> dict[str, Any]:
    """A picture as `datasets` keeps it."""
    return {"bytes": picture(number), "path": f"{number}.jpg"}


def vstar_row(number: int) -> dict[str, Any]:
    return {
        "image": image(number),
        "text": f"What is thing {number} made of?\n(A) rubber\n(B) cotton\n(C) kevlar\n"
        f"(D) leather\n{_DIRECTLY}",
        "label": "ABCD"[number % 4],
        "question_id": str(number),
        "category": ("direct_attributes", "relative_position")[number % 2],
    }


def zoombench_row(number: int) -> dict[str, Any]:
    is_choice = number % 2 == 0
    return {
        "id": number,
        "query": f"Which colour is it?\nA. red\nB. blue {number}" if is_choice else "How many?",
        "response": "B" if is_choice else str(number),
        "image": image(number),
        "crop_image": image(number + 100),
        "question_type": "mcq" if is_choice else "open",
    }


def hrbench_row(number: int) -> dict[str, Any]:
    return {
        "index": number,
        "question": f"Where is the sign {number}?",
        "answer": "ABCD"[number % 4],
        **{letter: f"place {letter}" for letter in "ABCD"},
        "category": ("single", "cross")[number // 4 % 2],
        "cycle_category": f"cycle_{number % 4}",
        "image": base64.b64encode(picture(number)).decode(),
    }


def mme_row(number: int) -> dict[str, Any]:
    task = ("Perception/OCR with Complex Context", "Reasoning/Monitoring")[number % 2]
    return {
        "index": number,
        "bytes": base64.b64encode(picture(number)).decode(),
        "question": f"What does sign {number} say?",
        "multi-choice options": [f"({letter}) word {letter}" for letter in "ABCDE"],
        "answer": "ABCD"[number % 4],
        "category": task,
        "l2-category": "license",
    }


def mmstar_row(number: int) -> dict[str, Any]:
    forms = (
        "Which one?\nOptions: A: a cat, B: a dog, C: a cow, D: a hen",
        "Hint: Look.\nQuestion: Which one?\nChoices:\n(A) a cat\n(B) a dog\n(C) a cow\n(D) a hen",
    )
    return {
        "index": number,
        "question": forms[number % 2],
        "image": picture(number),
        "answer": "ABCD"[number % 4],
        "category": ("math", "logical reasoning")[number % 2],
        "l2_category": ("geometry", "code & sequence reasoning", "statistical")[number % 3],
        "meta_info": {"source": "MMMU"},
    }


def pope_row(number: int) -> dict[str, Any]:
    return {
        "id": str(number),
        "question_id": str(number // 3),  # each sampling counts anew
        "question": f"Is there a car {number} in the image?",
        "answer": ("yes", "no")[number % 2],
        "image_source": f"COCO_{number}",
        "image": image(number),
        "category": ("adversarial", "popular", "random")[number % 3],
    }


def cv_bench_row(number: int, kind: str = "2D") -> dict[str, Any]:
    sources = {"2D": ("ADE20K", "COCO"), "3D": ("Omni3D", "Omni3D")}[kind]
    return {
        "idx": number,
        "type": kind,
        "task": ("Count", "Relation")[number % 2] if kind == "2D" else "Depth",
        "image": image(number),
        "question": "How many?",
        "choices": ["1", "2", "3"],
        "answer": f"({'ABC'[number % 3]})",
        "prompt": "How many? Select from the following choices.\n(A) 1\n(B) 2\n(C) 3",
        "source": sources[number % 2],
    }


def mmvp_row(number: int) -> dict[str, Any]:
    return {
        "lndex": number + 1,
        "Question": "Are the wings open, or closed?",
        "Options": "(a) Open (b) Closed",
        "Correct Answer": "(b)" if number % 2 else "(a)",
    }


# ---- files ---------------------------------------------------------------------------------------
def _write_parquet(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """In row groups of a few rows, as the hub's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows)), path, row_group_size=3)


def _write_mmvp(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    (folder / "MMVP Images").mkdir()
    for row in rows:
        (folder / "MMVP Images" / f"{row['lndex']}.jpg").write_bytes(picture(row["lndex"]))
    with (folder / "Questions.csv").open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, list(mmvp_row(0)))
        writer.writeheader()
        writer.writerows(rows)


def _write_visualprobe(folder: Path, count: int) -> None:
    """141, 268 and 106 of 515, or as many each as are wanted."""
    parts = {"Easy": 141, "Medium": 268, "Hard": 106}
    for part, published in parts.items():
        inside = folder / f"VisualProbe_{part}"
        (inside / "images").mkdir(parents=True)
        rows = []
        for number in range(published if count == 515 else count // 3):
            (inside / "images" / f"{number}.jpg").write_bytes(picture(number))
            path = f"VisualProbe_{part}/images/{number}.jpg"
            rows.append(
                {"images": [path], "problem": "<image>\nHow many?", "solution": f"{number}"}
            )
        (inside / "val.json").write_text(json.dumps(rows))


_FILES = {
    "vstar": "data/test-00000-of-00001.parquet",
    "zoombench": "data/test.parquet",
    "hrbench-4k": "hr_bench_4k.parquet",
    "hrbench-8k": "hr_bench_8k.parquet",
    "mmstar": "mmstar.parquet",
    "pope": "data/test-00000-of-00003.parquet",
}
_ROWS: dict[str, Callable[[int], dict[str, Any]]] = {
    "vstar": vstar_row,
    "zoombench": zoombench_row,
    **dict.fromkeys(("hrbench-4k", "hrbench-8k"), hrbench_row),
    **dict.fromkeys(("mme-realworld", "mme-realworld-cn", "mme-realworld-lite"), mme_row),
    "mmstar": mmstar_row,
    "pope": pope_row,
    "cv-bench": cv_bench_row,
    "mmvp": mmvp_row,
}
