"""How much each token counts when training leans on what the teacher sees (VA-OPD).

Source: arXiv 2605.21924. For a group of n responses y_1 .. y_n, of T_i tokens each, to one question
about the teacher's picture I:

    VA_it = max(0, log pT(y_it | I) - log pT(y_it | pixelated I))           visual advantage
    m_i   = mean over t of VA_it,   z_i = (m_i - mean(m)) / std(m)           0 where std(m) = 0
    w_i   = n * exp(z_i) / sum over j of exp(z_j)                            mean over i is 1
    k_i   = ceil(share * T_i)                                                visual tokens
    u_it  = mass * T_i / k_i              for the k_i tokens of largest VA
            (1 - mass) * T_i / (T_i - k_i) for the others                    mean over t is 1
    multiplier_it = w_i * u_it

A multiplier scales the token's share of the loss. Under "sequence_mean" shares, 1 / (N * T_i), the
multipliers of a group average to exactly 1: the loss keeps its scale, and each group its weight.
(Under "token_mean" the mean over the group's tokens is 1 only where its responses are equally
long.) The paper leaves details open that are settled here: std is the population's; ties in VA go
to the earlier token; k_i is rounded up; where the choice means nothing, because all VA of a
response are equal or all its tokens would be visual (one token, say), u_it = 1.
"""

import math
from collections.abc import Sequence

import numpy as np

_SMALLEST_SPREAD = 1e-6  # nats; a spread of means below it is rounding, not evidence


def token_multipliers(
    picture_logprobs: Sequence[np.ndarray],
    contrast_logprobs: Sequence[np.ndarray],
    share: float,
    mass: float,
) -> list[np.ndarray]:
    """float64 [T] for each response of ONE group: what its tokens' shares are multiplied by.

    All are positive. They depend on the teacher alone and are constants of the loss. Where any
    log-prob is not finite, all are NaN: so is the gradient then, and the optimizer leaves the step
    out, as it does when a teacher without weights diverges.

    Args:
        picture_logprobs: [T] each, nats: the teacher's log-probs of the response's tokens.
        contrast_logprobs: the same with the teacher's picture pixelated.
        share: of a response's tokens that count as visual, in (0, 1).
        mass: of a response's weight that they get, in (0, 1).

    Raises:
        ValueError: no response, an empty one, lengths that differ, or a share or mass outside
            (0, 1).
    """
    for name, value in (("share", share), ("mass", mass)):
        if not 0 < value < 1:
            raise ValueError(
                f"visual advantage: {name} = {value} must lie between 0 and 1. "
                f"Fix: objective.visual_advantage_{name}"
            )
    if not picture_logprobs:
        raise ValueError("visual advantage: a group without responses. Fix: leave it out")
    pairs = list(zip(picture_logprobs, contrast_logprobs, strict=True))
    advantages = [visual_advantages(*pair, number) for number, pair in enumerate(pairs)]
    if not all(np.isfinite(advantage_T).all() for advantage_T in advantages):
        return [np.full(len(advantage_T), np.nan) for advantage_T in advantages]
    weights_N = sequence_weights(np.array([advantage_T.mean() for advantage_T in advantages]))
    return [
        weight * _within_sequence(advantage_T, share, mass)
        for weight, advantage_T in zip(weights_N, advantages, strict=True)
    ]


def visual_advantages(
    picture_logprobs_T: np.ndarray, contrast_logprobs_T: np.ndarray, number: int = 0
) -> np.ndarray:
    """float64 [T], nats, >= 0: by how much the true picture makes each token likelier.

    NaN where a log-prob is not finite.

    Args:
        number: of the response in its group, for the error message.

    Raises:
        ValueError: see `token_multipliers`.
    """
    picture_T = np.asarray(picture_logprobs_T, dtype=np.float64)
    contrast_T = np.asarray(contrast_logprobs_T, dtype=np.float64)
    if picture_T.ndim != 1 or picture_T.shape != contrast_T.shape or not picture_T.size:
        raise ValueError(
            f"visual advantage: response {number} has log-probs of shapes {picture_T.shape} and "
            f"{contrast_T.shape}. Fix: give one of each for every token, at least one"
        )
    is_finite_T = np.isfinite(picture_T) & np.isfinite(contrast_T)
    picture_T, contrast_T = (np.where(is_finite_T, x, np.nan) for x in (picture_T, contrast_T))
    return np.maximum(0.0, picture_T - contrast_T)


def sequence_weights(means_N: np.ndarray) -> np.ndarray:
    """float64 [N], mean 1: softmax over a group of the z-scored mean advantages, times N.

    A group of one, or one without spread, gets ones.
    """
    deviation_N = means_N - means_N.mean()
    spread = float(np.sqrt((deviation_N**2).mean()))
    if spread < _SMALLEST_SPREAD:
        return np.ones(len(means_N))
    # z is at most sqrt(N - 1): exp cannot overflow for the 1024 responses that are allowed.
    weights_N = np.exp(deviation_N / spread)
    normalised_N: np.ndarray = weights_N * (len(means_N) / weights_N.sum())
    return normalised_N


def _within_sequence(advantage_T: np.ndarray, share: float, mass: float) -> np.ndarray:
    """float64 [T], mean 1: the visual tokens share `mass`, the others the rest."""
    length = len(advantage_T)
    num_visual = min(length, max(1, math.ceil(share * length - 1e-9)))  # 0.2 * 15 is above 3
    if num_visual == length or advantage_T.min() == advantage_T.max():
        return np.ones(length)
    multipliers_T = np.full(length, (1 - mass) * length / (length - num_visual))
    visual = np.argsort(-advantage_T, kind="stable")[:num_visual]
    multipliers_T[visual] = mass * length / num_visual
    return multipliers_T
