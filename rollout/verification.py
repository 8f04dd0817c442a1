"""Checks that an engine serves what was pushed, and nothing cached from older weights.

Checksums compare every tensor, bit for bit, before it generates again. The probe then asks for the
log-probs of a fixed response to a fixed image and compares them with the learner's: an image
embedding, a prefix or a KV entry of older weights would show there and nowhere else.
"""

import logging

import numpy as np

from common.errors import EngineError
from common.types import WeightChecksums, WeightProbe
from rollout.engine import Engine, EngineInfo

logger = logging.getLogger(__name__)
_SHOWN = 8  # names in an error


class VerificationFailed(EngineError):
    """The engine works, but what it serves is wrong."""


async def check_checksums(engine: Engine, info: EngineInfo, expected: WeightChecksums) -> None:
    """Compare checksums; not of an engine that splits its tensors or hashes them otherwise.

    Raises:
        VerificationFailed: names the tensors that differ.
    """
    if info.ranks > 1 or info.device != expected.kind:
        logger.info(
            "checksums are not comparable: %s over %d ranks here, %s over 1 from the learner",
            info.device, info.ranks, expected.kind,
        )  # fmt: skip
        return
    found = await engine.checksums()
    wrong = [name for name, value in expected.by_name.items() if found.get(name) != value]
    if wrong:
        more = f" and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise VerificationFailed(
            f"{len(wrong)} of {len(expected.by_name)} tensors differ from what was pushed: "
            f"{', '.join(wrong[:_SHOWN])}{more}"
        )


async def check_probe(engine: Engine, probe: WeightProbe) -> float:
    """Mean absolute difference of the probe's log-probs (nats). The engine must not be paused.

    Raises:
        VerificationFailed: it is above the tolerance, or the prompt came out of a cache that is
            older than the push.
    """
    scores = await engine.score(probe.prompt_token_ids, probe.image, probe.response_token_ids)
    difference = float(np.abs(scores.logprobs - probe.logprobs).mean())
    if scores.cached_tokens:
        raise VerificationFailed(
            f"{scores.cached_tokens} tokens of the probe's prompt came from a prefix cache that is "
            "older than the push"
        )
    if not difference <= probe.tolerance:  # also true for NaN
        raise VerificationFailed(
            f"log-probs of the probe differ from the learner's by {difference:.4g} nats on "
            f"average, {probe.tolerance:g} is allowed (weights.probe_tolerance): weights, or an "
            "image embedding or KV of older weights"
        )
    return difference
