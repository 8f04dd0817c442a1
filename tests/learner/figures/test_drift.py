"""The drift of rollout against learner, beside numpy on the same tokens."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.group import Trajectory, VersionSpan
from common.types import FinishReason
from learner.figures.drift import MEANS_BY_AGE, QUANTILES, Drift, ages_of, figures_of
from learner.views.inputs import PreparedGroup

CPU = torch.device("cpu")
STEP = 8
WITHIN = 2 ** (1 / 32)  # a quantile is within this factor of that of sorted tokens
ROUNDING = 1.0001


def group(*spans_of_each: list[tuple[int, int]]) -> PreparedGroup:
    """A group whose trajectories have spans of (version, tokens)."""
    trajectories = []
    for index, parts in enumerate(spans_of_each):
        ends = np.cumsum([tokens for _, tokens in parts]).tolist()
        spans = [
            VersionSpan(version, end - tokens, end)
            for (version, tokens), end in zip(parts, ends, strict=True)
        ]
        zeros = np.zeros(ends[-1])
        trajectories.append(
            Trajectory(index, zeros.astype(np.int32), zeros.astype(np.float32), tuple(spans), 0,
                       FinishReason.STOP)
        )  # fmt: skip
    responses = tuple(np.zeros(t.num_tokens, dtype=np.int64) for t in trajectories)
    return PreparedGroup(
        "g", None, None, responses, responses, (0,) * len(responses),
        trajectories=tuple(trajectories),
    )  # fmt: skip


def totals_of(parts: list[tuple[np.ndarray, list[PreparedGroup]]]) -> list[float]:
    drift = Drift(STEP, CPU)
    for values, groups in parts:
        drift.add(torch.from_numpy(values), groups)
    return drift.totals()


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(st.tuples(st.integers(0, STEP - 1), st.integers(1, 30)), min_size=1,
                      max_size=3), min_size=1, max_size=8),
    st.integers(0, 2**32 - 1),
    st.integers(1, 8),
)  # fmt: skip
def test_figures_are_those_of_all_tokens_however_they_were_packed(trajectories, seed, num_parts):
    groups = [group(spans) for spans in trajectories]
    sizes = [g.num_response_tokens for g in groups]
    rng = np.random.default_rng(seed)
    drift = np.exp(rng.normal(-4, 4, sum(sizes))).clip(max=99).astype(np.float32)
    drift[rng.random(len(drift)) < 0.1] = 0.0
    pieces = np.split(drift, np.cumsum(sizes)[:-1])
    whole = totals_of([(drift, groups)])
    packed = [list(range(len(groups)))[n::num_parts] for n in range(num_parts)]
    rows = [(np.concatenate([pieces[i] for i in p]), [groups[i] for i in p]) for p in packed if p]
    in_parts = totals_of(rows)
    of_ranks = np.sum([totals_of([row]) for row in rows], axis=0)
    num_sums = len(MEANS_BY_AGE)
    for other in (in_parts, of_ranks):
        np.testing.assert_array_equal(other[num_sums:], whole[num_sums:])
        np.testing.assert_allclose(other[:num_sums], whole[:num_sums], rtol=1e-12)

    found = figures_of(whole, float(drift.max()))
    for name, q in QUANTILES.items():
        expected = np.quantile(drift, q, method="inverted_cdf")
        assert expected / WITHIN / ROUNDING <= found[name] <= expected * WITHIN * ROUNDING
        assert found[name] <= drift.max()
    ages = np.concatenate([[min(STEP - 1 - v, 4)] * n for spans in trajectories for v, n in spans])
    for age, name in enumerate(MEANS_BY_AGE):
        assert (name in found) == (age in ages)
        if name in found:
            assert found[name] == pytest.approx(drift[ages == age].mean(dtype=np.float64), rel=1e-5)


def test_a_token_has_the_age_of_the_weights_that_sampled_it():
    groups = [group([(7, 2), (6, 1)], [(3, 1)]), group([(0, 2)])]
    assert ages_of(groups, STEP - 1).tolist() == [0, 0, 1, 4, 4, 4]


def test_a_drift_that_is_no_number_is_in_the_mean_of_its_age_alone():
    values = np.array([0.5, np.nan, np.inf, 0.25], dtype=np.float32)
    found = figures_of(totals_of([(values, [group([(7, 1), (6, 1), (5, 1), (4, 1)])])]), np.inf)
    means = [found[name] for name in MEANS_BY_AGE[:4]]
    assert means == pytest.approx([0.5, np.nan, np.inf, 0.25], nan_ok=True)
    assert found["drift/p99_nats"] == np.inf and found["drift/p50_nats"] <= 0.5 * WITHIN


def test_tokens_without_trajectories_have_quantiles_and_no_age():
    responses = (np.zeros(3, dtype=np.int64),)
    unknown = PreparedGroup("g", None, None, responses, responses, (0,))
    found = figures_of(totals_of([(np.full(3, 0.1, np.float32), [unknown])]), 0.1)
    assert found.keys() == QUANTILES.keys()
    assert found["drift/p50_nats"] == pytest.approx(0.1, rel=0.03)


def test_a_micro_batch_asks_the_device_for_no_value():
    """Tensors of the meta device have none: a question, for which a GPU is waited for, fails."""
    meta = torch.device("meta")
    drift = Drift(STEP, meta)
    drift.add(torch.zeros(5, device=meta), [group([(7, 2), (6, 1)], [(3, 2)])])
    with pytest.raises(NotImplementedError):
        drift.totals()
