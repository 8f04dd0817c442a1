from dataclasses import replace

import pytest

from common.config import RunConfig
from deploy.cluster.nodes import Node
from deploy.planning.layout import Layout
from deploy.planning.memory import learner_memory
from deploy.planning.micro_batches import ACTIVATIONS, MOST_GROUPS, USED, sized, sized_here
from tests.deploy.planning.shapes import DEVICE, SHAPE, WORK, config

GROUP = 20 + 2 * 4  # a prompt and two responses
LAYOUT = Layout(1, 1, 1)


def unset(**learner: object) -> RunConfig:
    return config(learner={"micro_batch_tokens": None, **learner})


def needed(tokens: int) -> float:
    memory = learner_memory(config(learner={"micro_batch_tokens": tokens}), SHAPE, WORK, LAYOUT)
    return memory.total + (ACTIVATIONS - 1) * memory.activations


def tokens_on(memory: float, layout: Layout = LAYOUT, **learner: object) -> int | None:
    device = replace(DEVICE, memory=memory)
    return sized(unset(**learner), SHAPE, WORK, layout, device).learner.micro_batch_tokens


@pytest.mark.parametrize("tokens", [GROUP, GROUP + 1, 61, 8 * GROUP - 1])
def test_as_many_tokens_as_fit(tokens: int) -> None:
    assert tokens_on(needed(tokens) / USED + 1e-3) == tokens
    assert tokens_on(needed(tokens) / USED - 1e-3) == max(GROUP, tokens - 1)


def test_no_more_than_a_rank_has_or_is_worth_it() -> None:
    plenty = 10 * needed(9 * GROUP)
    assert tokens_on(plenty, groups_per_step=96) == MOST_GROUPS * GROUP
    assert tokens_on(plenty, Layout(1, 3, 1)) == 3 * GROUP  # of eight, over three ranks


def test_what_is_configured_stays_and_cores_have_no_bound() -> None:
    assert sized(config(), SHAPE, WORK, LAYOUT, DEVICE) == config()
    assert tokens_on(0.0) is None
    assert unset().learner.student_batch_tokens == 9216


def published(**sections: dict[str, object]) -> RunConfig:
    pool = {"learner_pool": {"gpus": 1}, "learner": {"ranks": 5}}
    return RunConfig.model_validate({**pool, **sections})


def test_the_published_run_has_several_groups_a_micro_batch_on_gpus_of_80_gb() -> None:
    def tokens(gpus: float) -> int | None:
        run = published(learner_pool={"gpus": gpus})
        return sized_here(run, lambda: [Node("a", 64, 8, "H100")]).learner.micro_batch_tokens

    whole, part = tokens(1.0), tokens(0.6)
    assert whole is not None and part is not None
    assert part < whole and whole >= 2 * 4760  # of a mean group


@pytest.mark.parametrize(
    ("sections", "node"),
    [
        ({"learner_pool": {"gpus": 0}}, Node("a", 64, 8, "H100")),
        ({"learner": {"device": "cpu"}}, Node("a", 64, 8, "H100")),
        ({}, Node("a", 64, 8, "an unheard-of one")),
        ({}, Node("a", 64)),
        ({"model": {"path": "nobody/knows-this"}}, Node("a", 64, 8, "H100")),
    ],
)
def test_without_a_known_gpu_or_model_nothing_is_sized(
    sections: dict[str, dict[str, object]], node: Node
) -> None:
    assert sized_here(published(**sections), lambda: [node]) == published(**sections)
