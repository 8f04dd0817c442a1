"""A model that is held over a step has the same gradients, from fewer collectives."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from learner.model.held import held, held_over
from learner.model.sharding import gather, shard_model, whole_weight
from learner.ranks import Ranks
from tests.learner.model.support import Case, hidden_states, load
from tests.learner.rank_processes import run_on_ranks
from tests.tiny_model import FAMILIES, make_tiny_checkpoint

NUMBERS = (0, 1, 2)


class Collectives(TorchDispatchMode):
    """Counts them by name."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if func.namespace == "c10d":
            self.counts[func.name()] += 1
        return func(*args, **(kwargs or {}))


def step(ranks: Ranks, case: Case, is_held: bool) -> dict[str, Any]:
    """Gradients of three micro-batches, and the collectives that they took."""
    model = load(case)
    assert ranks.mesh is not None
    shard_model(model, ranks.mesh, torch.bfloat16)
    with Collectives() as collectives:
        for number in held_over(model, NUMBERS, is_held):
            hidden_LD = hidden_states(model, case, number + ranks.rank)
            head_VD = whole_weight(model.get_output_embeddings().weight, torch.bfloat16)
            (hidden_LD @ head_VD.T).float().square().mean().backward()
    assert all(hasattr(p, "to_local") for p in model.parameters()), "all is given up in the end"
    gradients = {
        name: gather(p.grad).numpy() for name, p in model.named_parameters() if p.grad is not None
    }
    return {"gradients": gradients, "counts": collectives.counts}


def both(ranks: Ranks, case: Case) -> tuple[dict[str, Any], dict[str, Any]]:
    return step(ranks, case, False), step(ranks, case, True)


def compare(case: Case, world_size: int) -> None:
    for plain, kept in run_on_ranks(both, world_size, case):
        assert kept["gradients"].keys() == plain["gradients"].keys()
        for name, expected in plain["gradients"].items():
            np.testing.assert_allclose(
                kept["gradients"][name], expected, rtol=1e-5, atol=1e-6, err_msg=name
            )
        if world_size > 1:  # a single rank copies
            compare_counts(plain["counts"], kept["counts"])


def compare_counts(plain: Counter[str], kept: Counter[str]) -> None:
    """Once a step instead of once a micro-batch; the head is read in each all the same."""
    reductions, gathers = "c10d::_reduce_scatter_base_", "c10d::_allgather_base_"
    assert 0 < kept[reductions] < plain[reductions]
    assert 0 < kept[gathers] <= plain[gathers] / len(NUMBERS)


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(str(make_tiny_checkpoint(tmp_path, 0, True, "qwen3_5")), "qwen3_5")


def test_gradients_are_those_of_a_model_that_is_not_held(case: Case):
    compare(case, 1)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("is_tied", [True, False])
@pytest.mark.parametrize("lora_rank", [0, 3])
def test_every_family_on_two_ranks(family: str, is_tied: bool, lora_rank: int, tmp_path: Path):
    folder = str(make_tiny_checkpoint(tmp_path, 0, is_tied, family))
    compare(Case(folder, family, is_tied, lora_rank=lora_rank, features_first=True), 2)


def score(ranks: Ranks, case: Case) -> dict[str, Any]:
    plain, model = load(case).eval(), load(case).eval()
    assert ranks.mesh is not None
    shard_model(model, ranks.mesh, torch.float32)
    with torch.no_grad(), Collectives() as collectives, held(model, True):
        found = [hidden_states(model, case, number) for number in NUMBERS]
        expected = [hidden_states(plain, case, number) for number in NUMBERS]
    with torch.no_grad(), Collectives() as once, held(model, True):
        hidden_states(model, case, 0)
    return {
        "equal": all(torch.equal(*pair) for pair in zip(found, expected, strict=True)),
        "gathered once": collectives.counts == once.counts,
        "given up": all(hasattr(p, "to_local") for p in model.parameters()),
    }


def test_passes_without_a_gradient_gather_once(case: Case):
    for figures in run_on_ranks(score, 1, case):
        assert all(figures.values()), figures
