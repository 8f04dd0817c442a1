"""The held-out samples of a run, by name: what servers may be asked to answer."""

import logging

from common.config import RunConfig
from common.dataset import read_samples
from common.errors import DataError
from common.types import Sample

logger = logging.getLogger(__name__)


def heldout_samples(config: RunConfig) -> dict[str, Sample]:
    """Read the held-out samples, by name; none without a file, or where it cannot be read."""
    path = config.data.heldout
    if path is None:
        return {}
    try:
        samples, _ = read_samples(path)
    except DataError as error:
        logger.warning("held-out accuracy will not be measured: %s", error)
        return {}
    return {sample.sample_id: sample for sample in samples}
