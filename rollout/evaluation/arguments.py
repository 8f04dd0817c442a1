"""The command line of `rollout.evaluate` and `rollout.gap`: which model, which sets, how."""

import argparse
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from common.config import TeacherSection
from common.engines import ENGINES
from common.engines.keys import read_key
from common.errors import ConfigError
from rollout.evaluation.endpoint import base_url
from rollout.evaluation.items import EvaluationSet, Labels, Style
from rollout.evaluation.questions import View, checked_limits
from rollout.evaluation.sets import CUSTOM, find_set
from rollout.evaluation.settings import EvaluationPlan, EvaluationSettings, JudgeSettings, Target

PUBLISHED_MAX_TOKENS = 32768  # limit of a reply in the published harness
_TEACHER = TeacherSection()


def add_model(parser: argparse.ArgumentParser) -> None:
    """Which model is asked."""
    parser.add_argument("--endpoint", metavar="URL", help="a server of OpenAI's API")
    parser.add_argument("--api-key-file", type=Path, metavar="FILE", help="with its key")
    parser.add_argument("--model", metavar="NAME", help="if it serves several")
    parser.add_argument(
        "--checkpoint", type=Path, metavar="DIR", help="or a folder, which is served meanwhile; "
        "further options (--section.key VALUE) are the server's, as of a run",
    )  # fmt: skip
    parser.add_argument("--engine", choices=tuple(ENGINES), default="sglang")


def add_questions(parser: argparse.ArgumentParser) -> None:
    """What is asked, and how replies are judged."""
    parser.add_argument("--sets", metavar="NAME,...", help=f"published ones, or {CUSTOM}FILE")
    parser.add_argument("--out", type=Path, required=True, metavar="RESULT", help="a folder")
    parser.add_argument("--source", type=Path, metavar="DIR", help="the sets' files; else the hub")
    parser.add_argument("--limit", type=_count, default=0, metavar="N", help="first items of a set")
    parser.add_argument("--any-count", action="store_true", help="of rows, not only the published")
    parser.add_argument("--prompt", choices=get_args(Style), default="paper")
    parser.add_argument("--labels", choices=get_args(Labels), help="default: paper")
    parser.add_argument(
        "--max-tokens", type=_count, metavar="N", help=f"of a reply (default: "
        f"{PUBLISHED_MAX_TOKENS}, or half of a smaller context)",
    )  # fmt: skip
    parser.add_argument("--min-pixels", type=_count, metavar="N")
    parser.add_argument("--max-pixels", type=_count, metavar="N")
    parser.add_argument(
        "--crop-margin", type=float, default=_TEACHER.crop_margin, metavar="X",
        help="of crops that are cut from boxes, as teacher.crop_margin of a run (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--crop-scale", type=float, default=_TEACHER.crop_scale, metavar="X",
        help="as teacher.crop_scale (%(default)s)",
    )  # fmt: skip
    parser.add_argument("--thinking", action=argparse.BooleanOptionalAction)
    parser.add_argument("--concurrency", type=_count, default=32, metavar="N")
    parser.add_argument("--timeout-s", type=float, default=1800.0, help="of one request")
    parser.add_argument("--tries", type=_count, default=8, metavar="N", help="of one request")
    parser.add_argument("--judge", metavar="URL", help="decides what the rules leave undecided")
    parser.add_argument("--judge-model", metavar="NAME")
    parser.add_argument("--judge-key-file", type=Path, metavar="FILE")


def check_model(options: argparse.Namespace, further: list[str]) -> None:
    """Refuse options that name not exactly one model, or do not go with it, with a ConfigError."""
    if getattr(options, "rescore", False):
        if options.endpoint is not None or options.checkpoint is not None or further:
            raise ConfigError("--rescore asks no model. Fix: leave out all that is about one")
        return
    if (options.endpoint is None) == (options.checkpoint is None):
        raise ConfigError("name one model. Fix: --endpoint URL or --checkpoint DIR")
    if options.endpoint is not None and further:
        raise ConfigError(f"unknown option {further[0]}. Fix: see --help")
    if options.checkpoint is not None:
        for name in ("api_key_file", "model"):
            if getattr(options, name) is not None:
                flag = f"--{name.replace('_', '-')}"
                raise ConfigError(f"{flag} is about an endpoint. Fix: leave it out")


def plan_of(options: argparse.Namespace, target: Target, view: View) -> EvaluationPlan:
    """What the options ask for, of a model that is known.

    Raises:
        ConfigError: unknown sets, or values that cannot be.
    """
    is_ours = options.checkpoint is not None
    settings = EvaluationSettings(
        max_tokens=_max_tokens(options.max_tokens, target),
        prompt=options.prompt,
        labels=options.labels or "paper",
        view=view,
        thinking=bool(options.thinking) if is_ours else options.thinking,
        limits=checked_limits(options.min_pixels, options.max_pixels),
        is_ours=is_ours,
        concurrency=max(1, options.concurrency),
    )
    teacher = teacher_of(options.crop_margin, options.crop_scale)
    return EvaluationPlan(
        sets_named(options.sets, teacher),
        settings,
        judge_of(options),
        options.source,
        options.limit,
        options.any_count,
        teacher,
        timeout_s=options.timeout_s,
        tries=max(1, options.tries),
    )


def plan_again(options: argparse.Namespace, document: Mapping[str, Any]) -> EvaluationPlan:
    """What a result's identity.json says was asked, with the labels and the judge of the options.

    Raises:
        ConfigError: its sets are not known any more.
    """
    identity = document["identity"]
    judge = identity["judge"]
    settings = EvaluationSettings(
        max_tokens=identity["max_tokens"],
        prompt=identity["prompt_style"],
        labels=options.labels or identity["labels"],
        view=identity["view"],
        thinking=identity["thinking"],
        limits=checked_limits(identity["min_pixels"], identity["max_pixels"]),
        temperature=identity["temperature"],
        concurrency=max(1, options.concurrency),
    )
    teacher = teacher_of(document["crop_margin"], document["crop_scale"])
    return EvaluationPlan(
        tuple(find_set(name, teacher) for name in identity["sets"]),
        settings,
        judge_of(options) or (None if judge is None else JudgeSettings(judge["model"])),
        options.source or (Path(document["source"]) if document.get("source") else None),
        max((one["limit"] for one in identity["sets"].values()), default=0),
        bool(document.get("is_any_count")),
        teacher,
    )


def teacher_of(crop_margin: float, crop_scale: float) -> TeacherSection:
    """How crops are cut from boxes, in teacher.crop_margin and teacher.crop_scale of a run.

    Raises:
        ConfigError: no crop can be cut so.
    """
    if not (0 <= crop_margin < math.inf and 0 < crop_scale < math.inf):
        raise ConfigError(
            f"--crop-margin {crop_margin:g} --crop-scale {crop_scale:g}: no crop can be cut so. "
            "Fix: a margin from 0, a scale above 0"
        )
    return TeacherSection(crop_margin=crop_margin, crop_scale=crop_scale)


def sets_named(
    names: str | None, teacher: TeacherSection | None = None
) -> tuple[EvaluationSet, ...]:
    """The sets of --sets. Raises ConfigError: unknown ones, none, or one twice."""
    found = [name.strip() for name in (names or "").split(",") if name.strip()]
    if not found:
        raise ConfigError("--sets is missing. Fix: as in --sets vstar,zoombench")
    twice = sorted({name for name in found if found.count(name) > 1})
    if twice:
        raise ConfigError(f"--sets names {twice[0]} twice. Fix: name it once")
    return tuple(find_set(name, teacher) for name in found)


def judge_of(options: argparse.Namespace) -> JudgeSettings | None:
    """The judge that is asked for; ConfigError if it has no name, or a name has no judge."""
    if options.judge is None and options.judge_model is None:
        return None
    if options.judge_model is None:
        raise ConfigError("--judge without --judge-model. Fix: name the model to ask there")
    if options.judge is None:
        return JudgeSettings(options.judge_model)
    path = options.judge_key_file
    key = None if path is None else read_key(path, "--judge-key-file")
    return JudgeSettings(options.judge_model, base_url(options.judge, "--judge"), key)


def _max_tokens(asked: int | None, target: Target) -> int:
    context = target.context_tokens
    if asked is None:
        is_small = context is not None and context <= PUBLISHED_MAX_TOKENS
        return context // 2 if context is not None and is_small else PUBLISHED_MAX_TOKENS
    if asked < 1 or (context is not None and asked >= context):
        room = "" if context is None else f" and less than the model's context, {context}"
        raise ConfigError(f"--max-tokens {asked}. Fix: at least 1{room}")
    return asked


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise ValueError("below 0")
    return number
