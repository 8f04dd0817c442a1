"""`python -m rollout.evaluate`: how many questions of published or own sets a model gets right.

Asks any server of OpenAI's API, or a checkpoint that it serves meanwhile, greedily, and judges the
replies by rules, without a model; --judge names one for what the rules leave undecided.

RESULT holds every reply as it came. The same command goes on where it was stopped, and asks again
what failed; --rescore judges what is there anew, without a request. result.json has all figures,
result.html shows them with the pictures, `python -m rollout.compare` compares two results.

Exit codes: 0 measured, 1 failed (what was answered is kept), 2 refused, 130 stopped by Ctrl-C.
"""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.command_line import parser_of
from common.output import ends_with_its_reader
from rollout.evaluation import identity
from rollout.evaluation.arguments import add_model, add_questions, check_model, plan_again, plan_of
from rollout.evaluation.command import INTERRUPTED, run_command
from rollout.evaluation.session import evaluate_into
from rollout.evaluation.settings import Target
from rollout.evaluation.stored_result import read_result
from rollout.evaluation.target import asked_target
from rollout.evaluation.terminal import beside_the_paper, told


def main(argv: Sequence[str] | None = None) -> None:
    options, further = _arguments(argv)
    run_command("evaluate", lambda stop: evaluate(options, further, stop))


async def evaluate(options: argparse.Namespace, further: list[str], stop: asyncio.Event) -> int:
    """The exit code. Raises VisionOpdError."""
    check_model(options, further)
    if options.rescore:
        document = await _again(options, stop)
    else:
        async with asked_target(options, further, stop) as target:
            document = None if target is None else await _asked(options, target, stop)
    if document is None:
        print(f"stopped; {options.out} keeps the replies, and the same command goes on")
        return INTERRUPTED
    print(told(document))
    if (table := beside_the_paper(read_result(options.out))) is not None:
        print(f"\n{table}")
    return code_of(document, options.out)


async def _asked(
    options: argparse.Namespace, target: Target, stop: asyncio.Event
) -> dict[str, Any] | None:
    plan = plan_of(options, target, options.view)
    return await evaluate_into(options.out, plan, target, stop)


async def _again(options: argparse.Namespace, stop: asyncio.Event) -> dict[str, Any] | None:
    before = identity.stored(options.out)
    target = Target("", before["model"], weights=before.get("weights"))
    plan = plan_again(options, before)
    return await evaluate_into(options.out, plan, target, stop, is_asking=False)


def code_of(document: dict[str, Any], folder: Path) -> int:
    """The exit code: 1 where a set has no answer at all."""
    failed = sum(one["failed"] for one in document["sets"].values())
    if failed:
        fix = "the same command asks them again"
        print(f"{failed} requests failed, see {folder / 'result.html'}; {fix}", file=sys.stderr)
    return 0 if all(one["answered"] for one in document["sets"].values()) else 1


def _arguments(argv: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    parser = parser_of("python -m rollout.evaluate", __doc__)
    add_model(parser)
    add_questions(parser)
    parser.add_argument(
        "--view", choices=("full", "crop"), default="full", help="the picture shown"
    )
    parser.add_argument("--rescore", action="store_true", help="judge stored replies anew")
    return parser.parse_known_args(argv)


if __name__ == "__main__":
    with ends_with_its_reader():
        main()
