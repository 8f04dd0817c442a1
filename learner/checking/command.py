"""The command lines of the parts of `python -m deploy.check_gpu`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch


def parser_of(prog: str) -> argparse.ArgumentParser:
    """A parser of what every part takes."""
    parser = argparse.ArgumentParser(prog=prog, allow_abbrev=False)
    parser.add_argument("--out", type=Path, required=True, help="findings are added, a line each")
    parser.add_argument("--device", choices=("cpu", "cuda"), required=True)
    parser.add_argument("--small", action="store_true", help="sizes for a CPU")
    parser.add_argument("--threads", type=int, help="of the CPU")
    return parser


def parsed(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """The options; from then on the process computes on as many threads as they say."""
    options = parser.parse_args(argv)
    if options.threads:
        torch.set_num_threads(options.threads)
    return options
