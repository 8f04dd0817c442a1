"""The dataset that the quickstart's configs name: made once, in a cache folder of the checkout."""

from collections.abc import Callable, Sequence
from pathlib import Path

from common.config import RunConfig
from common.config_cli import build
from common.errors import DataError
from common.locks import waiting_lock

CACHE = Path(__file__).resolve().parents[2] / ".cache" / "quickstart"
NUM_TRAIN = 1600
NUM_HELDOUT = 512
SEED = 0


def ensure_own_dataset(train: Path, report: Callable[[str], None]) -> None:
    """Make the dataset if `train` is its file and it is not there yet; else do nothing.

    Of two launches at once, one makes it and the other one waits.

    Raises:
        DataError: a disk refuses it, or a photograph is missing.
    """
    if not is_own(train):
        return
    from deploy.quickstart.dataset import DatasetParameters, holds_dataset, write_dataset

    report(f"world: {NUM_TRAIN + NUM_HELDOUT} scenes of digits on tags in {CACHE}")
    parameters = DatasetParameters(NUM_TRAIN, NUM_HELDOUT, SEED)
    if holds_dataset(CACHE, parameters):
        return  # it may be another user's, or cannot be written
    try:
        CACHE.mkdir(parents=True, exist_ok=True)
        with waiting_lock(CACHE / ".lock"):
            write_dataset(CACHE, parameters, report)
    except OSError as error:
        raise DataError(
            f"the quickstart's data cannot be made in {CACHE}: {error.strerror or error}. Fix: "
            "give that disk room, or this user the right to write there"
        ) from error


def without_foreign_heldout(
    config: RunConfig, arguments: Sequence[str], report: Callable[[str], None]
) -> RunConfig:
    """Own data are not measured on the quickstart's scenes, unless somebody asks for just that.

    Args:
        arguments: a person's, for the configuration.
    """
    train, heldout = config.data.train, config.data.heldout
    is_foreign = train is not None and heldout is not None and not is_own(train) and is_own(heldout)
    if not is_foreign or any(word.partition("=")[0] == "--data.heldout" for word in arguments):
        return config
    tree = config.model_dump()
    tree["data"]["heldout"] = None
    tree["evaluation"]["every_steps"] = tree["checkpoint"]["keep_best"] = 0
    report(
        "accuracy is not measured: data.train is your own, data.heldout the quickstart's; to "
        "measure, give --data.heldout FILE"
    )
    return build(tree)


def is_own(path: Path) -> bool:
    """Whether a file is one of the quickstart's world, made or not."""
    return path.resolve().parent == CACHE.resolve()
