"""The dataset that the quickstart's configs name: made once, in a cache folder of the checkout."""

from collections.abc import Callable
from pathlib import Path

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
    if train.resolve().parent != CACHE:
        return
    from deploy.quickstart.dataset import DatasetParameters, write_dataset

    report(f"world: {NUM_TRAIN + NUM_HELDOUT} scenes of digits on tags in {CACHE}")
    try:
        CACHE.mkdir(parents=True, exist_ok=True)
        with waiting_lock(CACHE / ".lock"):
            write_dataset(CACHE, DatasetParameters(NUM_TRAIN, NUM_HELDOUT, SEED), report)
    except OSError as error:
        raise DataError(
            f"the quickstart's data cannot be made in {CACHE}: {error.strerror or error}. Fix: "
            "give that disk room, or this user the right to write there"
        ) from error
