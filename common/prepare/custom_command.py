"""custom: a person's own rows, from a file, a folder of files or the hub."""

import argparse
from pathlib import Path
from typing import Any

from PIL import ImageColor

from common.errors import ConfigError
from common.prepare.boxes import FORMS, UNITS
from common.prepare.columns import KNOWN
from common.prepare.custom import Wishes, custom_rows
from common.prepare.hub_rows import PREFIX, downloaded, parsed
from common.prepare.pictures import Crops, DrawnBox, Looks
from common.prepare.preparation import check_out
from common.prepare.tables import table_files
from common.prepare.telling import run

_COLUMNS = "; ".join(f"{ours}: {', '.join(theirs)}" for ours, theirs in KNOWN.items())
_DESCRIPTION = f"""\
Rows of your own. Columns are known by their names ({_COLUMNS}) or said by --column. Pictures are
paths, bytes, or what `datasets` and verl have in their place. Boxes are recognised from the look of
the whole set, or said. Other columns are kept after ours, under their names.
"""


def add_to(forms: Any) -> None:
    parser = forms.add_parser(
        "custom", help="rows of your own", description=_DESCRIPTION, allow_abbrev=False
    )
    parser.add_argument(
        "--input",
        required=True,
        metavar="ROWS",
        help=f".jsonl or .parquet, a folder of them, or {PREFIX}NAME[@REVISION][:SPLIT]",
    )
    parser.add_argument(
        "--images", type=Path, metavar="FOLDER", help="that paths are relative to; default: ROWS'"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the dataset")
    parser.add_argument("--check", action="store_true", help="write nothing, list what is wrong")
    parser.add_argument(
        "--column", action="append", default=[], metavar="OURS=THEIRS", help="may be given again"
    )
    parser.add_argument("--box-units", choices=("auto", *UNITS), default="auto")
    parser.add_argument("--box-form", choices=("auto", *FORMS), default="auto")
    _add_looks(parser)
    parser.set_defaults(run=_run)


def _add_looks(parser: argparse.ArgumentParser) -> None:
    looks = parser.add_argument_group("what is made of the pictures")
    looks.add_argument(
        "--red-box",
        action="store_true",
        help="draw the box into the student's picture; crops are then made, from the clean one",
    )
    looks.add_argument(
        "--line-width",
        type=int,
        default=4,
        metavar="PIXELS",
        help="of the drawn box (4; the published set's is not documented)",
    )
    looks.add_argument("--colour", default="red", help="of the drawn box (red)")
    looks.add_argument(
        "--hint", action="store_true", help="add the published sentence about the red box"
    )
    looks.add_argument(
        "--make-crops",
        action="store_true",
        help="write the teacher's crops; else training cuts them out, as teacher.crop_margin says",
    )
    looks.add_argument("--crop-margin", type=float, help="of the box's sides (0)")
    looks.add_argument("--crop-scale", type=float, help="enlargement (2)")
    looks.add_argument(
        "--save-as",
        choices=("png", "jpeg"),
        default="png",
        help="of pictures that are made here (png: exact; jpeg: smaller, quality 95)",
    )


def _run(options: argparse.Namespace) -> None:
    looks = _looks(options)
    if looks.folder is not None:
        check_out(looks.folder)
    wishes = Wishes(_columns(options.column), options.box_units, options.box_form, options.hint)
    if options.input.startswith(PREFIX):
        folder, files, commit = downloaded(parsed(options.input))
        print(f"{options.input} is commit {commit}", flush=True)
    else:
        path = Path(options.input)
        files = table_files(path)
        folder = path if path.is_dir() else path.parent
    run(custom_rows(files, options.images or folder, wishes), looks)


def _columns(words: list[str]) -> dict[str, str]:
    found = dict(word.partition("=")[::2] for word in words)
    for ours, theirs in found.items():
        if ours not in KNOWN or not theirs:
            raise ConfigError(
                f"--column {ours}={theirs}: none of ours. Fix: write one of {', '.join(KNOWN)}, = "
                "and your column's name"
            )
    return found


def _looks(options: argparse.Namespace) -> Looks:
    if options.out is None and not options.check:
        raise ConfigError("--out is missing. Fix: name the folder of the dataset, or --check")
    if not 1 <= options.line_width <= 1000:
        raise ConfigError(f"--line-width {options.line_width}: Fix: give 1 to 1000 pixels")
    try:
        ImageColor.getrgb(options.colour)
    except ValueError as error:
        raise ConfigError(f"--colour: {error}. Fix: write a name or #rrggbb") from None
    return Looks(
        folder=None if options.check else options.out,
        red_box=DrawnBox(options.line_width, options.colour) if options.red_box else None,
        crops=_crops(options),
        saved_as=options.save_as,
    )


def _crops(options: argparse.Namespace) -> Crops | None:
    said = (options.crop_margin, options.crop_scale)
    if not (options.make_crops or options.red_box):  # the line must not be in a crop
        if said != (None, None):
            raise ConfigError(
                "--crop-margin, --crop-scale: no crops are made. Fix: add --make-crops, or set "
                "teacher.crop_margin and teacher.crop_scale of the run"
            )
        return None
    usual = Crops()
    margin = usual.margin if said[0] is None else said[0]
    scale = usual.scale if said[1] is None else said[1]
    if not (0 <= margin <= 100 and 0 < scale <= 100):
        raise ConfigError(
            f"--crop-margin {margin:g}, --crop-scale {scale:g}: out of range. Fix: give a margin "
            "of 0 to 100 and a scale above 0, up to 100"
        )
    return Crops(margin, scale)
