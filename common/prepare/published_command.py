"""vision-opd-6k: the published set, from the hub or from a folder."""

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import Any

from common.errors import ConfigError, DataError
from common.hub_datasets import dataset_snapshot
from common.prepare.archives import archives_in, unpack_all
from common.prepare.pictures import Looks
from common.prepare.preparation import Prepared, check_out
from common.prepare.published import DATASET, FILES, REVISION, StudentPicture, published_rows
from common.prepare.telling import run

_UNPACKED = "unpacked"  # in --out, until the dataset is whole


def add_to(forms: Any) -> None:
    parser = forms.add_parser(
        "vision-opd-6k",
        help="the published training set",
        description=f"The published set: train.jsonl and its pictures. Without --from, {DATASET} "
        f"is downloaded at revision {REVISION[:12]} into the hub's cache and unpacked from there.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--from", dest="source", type=Path, metavar="FOLDER", help="it is there already"
    )
    parser.add_argument("--out", type=Path, metavar="DIR")
    parser.add_argument(
        "--picture",
        choices=("red_box", "clean"),
        default="red_box",
        help="what the student sees; clean: without the box, and without the sentence about it",
    )
    parser.add_argument("--check", action="store_true", help="write nothing; needs --from")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    if options.check:
        _check(options)
    elif options.out is None:
        raise ConfigError("--out is missing. Fix: name the folder of the dataset")
    else:
        prepare_published(options.source, options.out, options.picture)


def prepare_published(
    source: Path | None, out: Path, picture: StudentPicture = "red_box"
) -> Prepared:
    """Make a dataset of the published set.

    Args:
        source: folder with train.jsonl, and pictures or archives of them; None means the hub's.

    Raises:
        ConfigError: no such source, or `out` holds a dataset already.
        DataError: no row is good, an archive is not what it should be, the disk is full.
    """
    check_out(out)
    if source is None:
        source, commit = dataset_snapshot(DATASET, REVISION, FILES)
        print(f"{DATASET} at {commit} is in {source}", flush=True)
    unpacked = out / _UNPACKED
    try:
        has_archives = unpack_all(source, unpacked, print)
        rows = published_rows(source, unpacked if has_archives else None, picture)
        prepared = run(rows, Looks(out, bakes=False))
        if has_archives:
            shutil.rmtree(unpacked)  # what is used is in the dataset
    except OSError as error:
        raise DataError(f"--out {out}: {error}. Fix: see to the disk") from error
    return prepared


def _check(options: argparse.Namespace) -> None:
    if options.source is None:
        raise ConfigError("--check: nothing is here to be checked. Fix: name it with --from")
    if not archives_in(options.source):
        run(published_rows(options.source, picture=options.picture), Looks(None, bakes=False))
        return
    with tempfile.TemporaryDirectory(prefix="unpacked-") as folder:
        unpack_all(options.source, Path(folder), print)
        rows = published_rows(options.source, Path(folder), options.picture)
        run(rows, Looks(None, bakes=False))
