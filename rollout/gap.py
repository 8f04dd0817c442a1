"""`python -m rollout.gap`: is there anything to teach here, before a GPU hour is spent?

Asks a model each question twice, about the evidence crop and about the full picture, and tells the
difference of the accuracies with its interval, paired by item (Newcombe 1998). Sets with crops:
zoombench, and own ones with a crop or a box.

RESULT/crop and RESULT/full are results as of rollout.evaluate, RESULT/gap.json has the difference.
The same command goes on where it was stopped.

Exit codes: 0 measured, 1 failed (what was answered is kept), 2 refused, 130 stopped by Ctrl-C.
"""

import argparse
import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from common.command_line import parser_of
from common.files import replace_json
from common.output import ends_with_its_reader
from rollout.evaluation.arguments import add_model, add_questions, check_model, plan_of
from rollout.evaluation.command import INTERRUPTED, run_command
from rollout.evaluation.gap import gap_document, told
from rollout.evaluation.questions import View
from rollout.evaluation.session import evaluate_into
from rollout.evaluation.settings import Target
from rollout.evaluation.target import asked_target

FILE = "gap.json"
_VIEWS: tuple[View, View] = ("crop", "full")


def main(argv: Sequence[str] | None = None) -> None:
    options, further = _arguments(argv)
    run_command("measure the gap", lambda stop: measure_gap(options, further, stop))


async def measure_gap(options: argparse.Namespace, further: list[str], stop: asyncio.Event) -> int:
    """The exit code. Raises VisionOpdError."""
    check_model(options, further)
    async with asked_target(options, further, stop) as target:
        found = [await _asked(options, target, view, stop) for view in _VIEWS]
    crop, full = found
    if crop is None or full is None:
        print(f"stopped; {options.out} keeps the replies, and the same command goes on")
        return INTERRUPTED
    document = gap_document(crop, full)
    replace_json(options.out / FILE, document, is_synced=True)
    print(told(document))
    return 0 if all(one["pairs"] for one in document["sets"].values()) else 1


async def _asked(
    options: argparse.Namespace, target: Target | None, view: View, stop: asyncio.Event
) -> dict[str, Any] | None:
    """The result of one view; None means that it was stopped."""
    if target is None or stop.is_set():
        return None
    plan = replace(plan_of(options, target, view), needs_crops=True)
    return await evaluate_into(options.out / view, plan, target, stop)


def _arguments(argv: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    parser = parser_of("python -m rollout.gap", __doc__)
    add_model(parser)
    add_questions(parser)
    return parser.parse_known_args(argv)


if __name__ == "__main__":
    with ends_with_its_reader():
        main()
