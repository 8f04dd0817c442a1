#!/usr/bin/env python3
"""Where lmms-eval 0.7.3 understands a reply otherwise than we do, and whose reading is right.

    .venv/bin/python tests/bench/oracle.py [--env DIR] [--json FILE]

Makes an environment of its own (`--env DIR` keeps it), installs lmms-eval there without the
packages that it depends on, and asks the scoring functions of its tasks about replies of every
form, once with each option as the label: those that get a point are how it reads the reply. Prompts
of the style "lmms" are compared as well, letter by letter. No model and no evaluator of it is run.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)  # beside this file the package `rollout` would be a benchmark

from rollout.evaluation.items import Item  # noqa: E402
from rollout.evaluation.sets import SETS  # noqa: E402
from tests.rollout.evaluation.replies import (  # noqa: E402
    CHOICES,
    LIMITS,
    OF_TWO,
    OPTIONS,
    YES_OR_NO,
    Reply,
)
from tests.rollout.evaluation.set_files import (  # noqa: E402
    cv_bench_row,
    hrbench_row,
    mme_row,
    mmstar_row,
    mmvp_row,
    pope_row,
    vstar_row,
    write_rows,
)

LMMS = "lmms-eval==0.7.3"
_NEEDS = ("loguru", "pandas", "pillow", "pyyaml", "requests")  # of the tasks' own modules
_CHILD = Path(__file__).with_name("oracle_lmms.py")
_NOWHERE = "http://127.0.0.1:9"  # in place of the OpenAI model that HR-Bench's task may ask
_TIMEOUT_S = 600.0
_LISTED = "\n".join(f"({letter}) {text}" for letter, text in OPTIONS)
_RULES = {  # how lmms-eval reads, by set
    "vstar": 'an A to D that begins the reply, of a word as well, else one after "answer", in '
    "brackets, at a word's end before a full stop, or alone, the first of each",
    "mme-realworld": "the first capital A to E, of a word as well",
    "mmvp": "an a or b before a space, of a word and the article as well",
    "cv-bench": "the first letter of the reply",
    "mmstar": "a letter before a space or a full stop, of a word as well; first before last",
    "pope": "nothing but yes and no themselves",
    "hrbench-4k": "a letter that stands alone, or a text that holds one option's; else it asks a "
    "model, and fails without one",
}


@dataclass(frozen=True)
class Compared:
    """One reply to a question of one set."""

    set: str
    form: str
    reply: str
    theirs: str  # the answers that get a point, or the error
    ours: str
    truth: str
    why: str  # "" where both read the same

    @property
    def is_same(self) -> bool:
        return self.theirs == self.ours


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--env", type=Path, help="folder of the environment, which is kept")
    parser.add_argument("--json", type=Path, help="write the comparison here, too")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        python = environment(options.env or Path(scratch) / "env")
        docs = {name: rows(name) for name in _ROWS}
        items = {name: item_of(name, found, Path(scratch)) for name, found in docs.items()}
        asked = list(questions(docs))
        told = ask(python, asked, docs)
    compared = list(compare(asked, told["points"], items))
    ours = {name: SETS[name].prompt(item, "lmms") for name, item in items.items()}
    prompts = {name: prompt == told["prompts"][name] for name, prompt in ours.items()}
    sys.stdout.write(report(compared, prompts))
    if options.json:
        rows_of = [asdict(one) for one in compared]
        content = {"lmms_eval": LMMS, "replies": rows_of, "same_prompt": prompts}
        options.json.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


# ---- their side ----------------------------------------------------------------------------------
def environment(folder: Path) -> Path:
    """The Python of an environment with lmms-eval; made where it is not there yet."""
    python = folder / "bin" / "python"
    if not (folder / "made").exists():
        venv.create(folder, with_pip=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *_NEEDS], check=True, timeout=_TIMEOUT_S)
        subprocess.run([*pip, "--no-deps", LMMS], check=True, timeout=_TIMEOUT_S)
        (folder / "made").touch()
    return python


def ask(
    python: Path, asked: Sequence[Mapping[str, Any]], docs: Mapping[str, Sequence[Any]]
) -> dict[str, Any]:
    """Points of each question, and the prompt of each set."""
    first = {name: _plain(found[0]) for name, found in docs.items()}
    done = subprocess.run(
        [str(python), str(_CHILD)],
        input=json.dumps({"questions": asked, "docs": first}),
        env={**os.environ, "OPENAI_API_URL": _NOWHERE, "LOGURU_LEVEL": "CRITICAL"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=_TIMEOUT_S,
    )
    return json.loads(done.stdout)


# ---- the questions -------------------------------------------------------------------------------
def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """Without the picture: the scoring does not look at it."""
    return {name: value for name, value in row.items() if name not in ("image", "bytes")}


def _row(name: str, label: str) -> dict[str, Any]:
    question = "What colour is the car?"
    texts = dict(OPTIONS)
    if name == "vstar":
        return {**vstar_row(0), "text": f"{question}\n{_LISTED}", "label": label}
    if name == "hrbench-4k":
        return {**hrbench_row(0), "question": question, **texts, "answer": label}
    if name == "mmstar":
        return {**mmstar_row(0), "question": f"{question}\nChoices:\n{_LISTED}", "answer": label}
    if name == "cv-bench":
        prompt = f"{question} Select from the following choices.\n{_LISTED}"
        choices = list(texts.values())
        return {**cv_bench_row(0), "choices": choices, "prompt": prompt, "answer": f"({label})"}
    if name == "mmvp":
        return {**mmvp_row(0), "Correct Answer": f"({label.lower()})"}
    if name == "pope":
        return {**pope_row(0), "answer": label}
    choices = [*_LISTED.split("\n"), "(E) The image does not feature it."]
    return {**mme_row(0), "question": question, "multi-choice options": choices, "answer": label}


_OF_FOUR = (*CHOICES, *(reply for reply, _ in LIMITS))
_ROWS: dict[str, tuple[tuple[Reply, ...], tuple[str, ...]]] = {  # replies, and the labels there are
    **dict.fromkeys(("vstar", "hrbench-4k", "mmstar", "cv-bench"), (_OF_FOUR, tuple("ABCD"))),
    **dict.fromkeys(
        ("mme-realworld", "mme-realworld-cn", "mme-realworld-lite"), (_OF_FOUR, tuple("ABCDE"))
    ),
    "mmvp": (OF_TWO, ("A", "B")),
    "pope": (YES_OR_NO, ("yes", "no")),
}


def rows(name: str) -> list[dict[str, Any]]:
    """One question, with each label that it can have."""
    return [_row(name, label) for label in _ROWS[name][1]]


def questions(docs: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterator[dict[str, Any]]:
    for name, found in docs.items():
        for number, reply in enumerate(_ROWS[name][0]):
            for label, doc in zip(_ROWS[name][1], found, strict=True):
                told = {"set": name, "number": number, "label": label, "reply": reply.text}
                yield told | {"doc": _plain(doc)}


def item_of(name: str, found: Sequence[dict[str, Any]], scratch: Path) -> Item:
    """The question as our loader reads it."""
    other_file = [cv_bench_row(0, "3D")] if name == "cv-bench" else []
    folder = write_rows(name, scratch / name, [found[0], *other_file])
    return next(SETS[name].open(folder, limit=1).items)


# ---- the comparison ------------------------------------------------------------------------------
def compare(
    asked: Sequence[Mapping[str, Any]],
    points: Sequence[float | str],
    items: Mapping[str, Item],
) -> Iterator[Compared]:
    """Compare; `points` has 1.0 or 0.0 for each question, or the name of an error."""
    theirs: dict[tuple[str, int], list[str]] = {}
    for question, point in zip(asked, points, strict=True):
        read = theirs.setdefault((question["set"], question["number"]), [])
        read += [point] if isinstance(point, str) else [question["label"]] * (point == 1.0)
    for (name, number), labels in theirs.items():
        reply = _ROWS[name][0][number]
        said = SETS[name].score(items[name], reply.text).said
        read, ours = " or ".join(dict.fromkeys(labels)) or "-", said or "-"
        why = "" if read == ours else f"{reply.form}; lmms-eval takes {_rule(name)}"
        yield Compared(name, reply.form, reply.text, read, ours, reply.truth or "-", why)


def _rule(name: str) -> str:
    return _RULES[name] if name in _RULES else _RULES["mme-realworld"]


def report(compared: Sequence[Compared], prompts: Mapping[str, bool]) -> str:
    """The differences as a table, and a line for each set."""
    lines = [f"{'set':19} {'theirs':8} {'ours':5} {'truth':5} reply"]
    for one in compared:
        if not one.is_same:
            shown = json.dumps(one.reply, ensure_ascii=False)
            lines.append(f"{one.set:19} {one.theirs:8} {one.ours:5} {one.truth:5} {shown}")
            lines.append(f"{'':40}{one.why}")
    lines.append("")
    lines += [_line(name, compared, is_same) for name, is_same in prompts.items()]
    return "\n".join(lines) + "\n"


def _line(name: str, compared: Sequence[Compared], is_same_prompt: bool) -> str:
    of_set = [one for one in compared if one.set == name]
    differing = [one for one in of_set if not one.is_same]
    ours = sum(one.ours == one.truth for one in differing)
    theirs = sum(one.theirs == one.truth for one in differing)
    prompt = "same prompt" if is_same_prompt else "ANOTHER PROMPT"
    return (
        f"{name}: {len(of_set)} replies, {len(differing)} read differently (ours right {ours}, "
        f"theirs {theirs}); {prompt}"
    )


if __name__ == "__main__":
    main()
