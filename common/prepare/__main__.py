"""Make a dataset of ours from data in other forms.

    python -m common.prepare vision-opd-6k [--from FOLDER] --out DIR
    python -m common.prepare custom --input ROWS --images FOLDER --out DIR
    python -m common.prepare look DIR

DIR/train.parquet is what data.train takes; DIR/pictures has the pictures, each under its digest.
A row that cannot be used is left out and named in DIR/left_out.txt, with the fix.
Exit code 1: no row was good, or the disk is full. 2: refused before a row was read.
"""

import argparse
import sys
from collections.abc import Sequence

from common.command_line import parser_of, refusing
from common.output import ends_with_its_reader
from common.prepare import custom_command, published_command

_INTERRUPTED = 130  # exit code: as a shell has it of Ctrl-C


def main(argv: Sequence[str] | None = None) -> None:
    words = sys.argv[1:] if argv is None else list(argv)
    if words[:1] == ["look"]:
        from common.look import main as look

        look(words[1:])
        return
    options = _arguments(words)
    try:
        with refusing("prepare"):
            options.run(options)
    except KeyboardInterrupt:
        print("stopped; the same command goes on with what is there", file=sys.stderr)
        raise SystemExit(_INTERRUPTED) from None


def _arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = parser_of("python -m common.prepare", __doc__)
    forms = parser.add_subparsers(dest="form", required=True, metavar="FORM")
    for command in (published_command, custom_command):
        command.add_to(forms)
    forms.add_parser("look", help="an HTML sheet about a dataset", allow_abbrev=False)
    return parser.parse_args(words)


if __name__ == "__main__":
    with ends_with_its_reader():
        main()
