"""Compare two results of rollout.evaluate, item by item.

    python -m rollout.compare A B

A and B are folders with a result.json, A for example of the base model and B of the trained one.
What is printed is Markdown: accuracies, their difference with its interval, and what changed. With
--out it is written as compare.md, with compare.html (pictures, replies before and after) and
compare.json. Results that were measured in different ways are refused, unless --despite names the
keys of their identity in which they may differ.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from common.command_line import parser_of, refusing
from common.output import ends_with_its_reader
from rollout.evaluation.compare import compare
from rollout.evaluation.compare_pages import comparison_markdown, write_comparison
from rollout.evaluation.stored_result import read_result


def main(argv: Sequence[str] | None = None) -> None:
    options = _arguments(argv)
    with refusing("compare"):
        a, b = read_result(options.a), read_result(options.b)
        found = compare(a, b, options.despite)
        if options.out is not None:
            write_comparison(found, options.out, options.a, options.b)
    print(comparison_markdown(found), end="")


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = parser_of("python -m rollout.compare", __doc__)
    parser.add_argument("a", type=Path, metavar="A", help="folder of a result")
    parser.add_argument("b", type=Path, metavar="B", help="folder of the other result")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for compare.md and others")
    parser.add_argument(
        "--despite",
        type=lambda text: text.split(","),
        default=(),
        metavar="KEY,KEY",
        help="keys of the identity in which they may differ, as max_tokens or sets.vstar.limit",
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    with ends_with_its_reader():
        main()
