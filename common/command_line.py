"""What the commands of a person have in common: how they are described, and how they refuse."""

import argparse
import contextlib
import sys
from collections.abc import Iterator

from common.errors import VisionOpdError, exit_code_of


def parser_of(program: str, description: str | None) -> argparse.ArgumentParser:
    """A parser that shows a module's docstring as it is, and takes no shortened options."""
    return argparse.ArgumentParser(
        prog=program,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


@contextlib.contextmanager
def refusing(what: str) -> Iterator[None]:
    """End the process with one line and the code of the error, if one of ours is raised inside.

    Args:
        what: the command does, for the line.
    """
    try:
        yield
    except VisionOpdError as error:
        print(f"cannot {what}: {error}", file=sys.stderr)
        raise SystemExit(exit_code_of(error)) from None
