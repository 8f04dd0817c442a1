"""What the planner says of memory and gathers, beside what is counted at published shapes.

Models are on the meta device, which has shapes and dtypes but no contents; ranks are imagined by
torch's fake process group. `pytest -rP` shows the table.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.testing._internal.distributed.fake_pg import FakeStore

from common.config import RunConfig
from common.config_cli import load
from deploy.planning.devices import gpu
from deploy.planning.layout import Layout
from deploy.planning.memory import (
    CHUNK_BYTES,
    LearnerMemory,
    ServerMemory,
    activation_bytes,
    block_numbers,
    delta_layer_numbers,
    full_layer_numbers,
    learner_memory,
    server_memory,
)
from deploy.planning.shape import KNOWN, ModelShape
from deploy.planning.tables import gib, table
from deploy.planning.workload import Workload, workload_of
from learner.checking.imagined import become_fake
from learner.checking.launches import Launches
from learner.model import tree_attention
from learner.model.layout import plan_layout
from learner.model.ragged_attention import RaggedFlash
from learner.model.sharding import local_part, shard_model
from tests.deploy.planning.kept_at_size import Kept, kept_by
from tests.deploy.planning.models_at_size import (
    MODELS,
    Collectives,
    Counted,
    counted,
    decoder,
    head_pass,
    model_of,
)
from tests.learner.interpreter import interpreting

CONFIGS = Path(__file__).parents[3] / "deploy" / "configs"
GROUP = (3400, [169] * 8)  # tokens of a prompt and its responses
TOKENS = 3400 + 8 * 169
H100 = gpu("H100")


def configured(name: str, model: str, *more: str) -> RunConfig:
    return load(["--config", str(CONFIGS / f"{name}.toml"), "--model.path", f"Qwen/{model}", *more])


@dataclass(frozen=True)
class Pass:
    """What a decoder launches over one group, forward and backward."""

    forward: int  # number of launches
    backward: int
    devices: set[str]


def decoder_pass(model: str, layers: int, *flags: str) -> Pass:
    student = model_of(model, configured("eight_gpus", model, *flags), layers).to(torch.bfloat16)
    layout = plan_layout([GROUP]).to(torch.device("meta"))
    with Launches() as launches:
        hidden = decoder(student, layout, TOKENS)()
        forward = launches.count
        hidden.sum().backward()
    return Pass(forward, launches.count - forward, launches.devices)


def planned(config: RunConfig, model: str) -> tuple[LearnerMemory, ServerMemory]:
    layout, shape = Layout(config.rollout.servers, config.learner.ranks, 1), KNOWN[model]
    work = workload_of(config, shape)
    learner = learner_memory(config, shape, work, layout)
    is_shared = config.learner_pool.gpus < 1
    kept = learner.total if is_shared else 0.0
    return learner, server_memory(config, shape, work, layout, H100, kept)


def held(config: RunConfig, found: Counted) -> dict[str, float]:
    """Bytes a rank, wherever they are."""
    ranks = config.learner.ranks
    return {
        "weights": found.weights / ranks,
        "gradients": found.gradients / ranks,
        "optimizer": found.moments / ranks,
        "teacher": found.teacher / ranks,
        "push": found.snapshot,
    }


# ---- the table -----------------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", ["one_gpu", "two_gpus", "eight_gpus"])
def test_the_planner_counts_what_the_learner_holds(name: str, model: str) -> None:
    config = configured(name, model)
    everywhere = _without_offload(config)
    real = held(config, counted(model, everywhere))
    on_gpu, server = planned(config, model)
    for part, number in real.items():
        assert getattr(planned(everywhere, model)[0], part) == pytest.approx(number, rel=0.005), (
            part
        )
    print(f"{model}, {name}.toml: GiB a GPU of 79")
    print("\n".join(table(_rows(on_gpu, real, server), left=1)))


def _without_offload(config: RunConfig) -> RunConfig:
    """The same learner, but that everything is on the GPU."""
    return config.model_copy(
        update={
            "learner": config.learner.model_copy(update={"offload": False}),
            "teacher": config.teacher.model_copy(update={"offload": False}),
            "weights": config.weights.model_copy(update={"transport": "broadcast"}),
        }
    )


def _rows(
    learner: LearnerMemory, real: dict[str, float], server: ServerMemory
) -> list[tuple[str, str, str]]:
    parts = ("weights", "gathered", "gradients", "optimizer", "teacher", "activations", "push")
    rows = [("", "planned", "counted in all")]
    rows += [
        (part, gib(getattr(learner, part)), gib(real[part]) if part in real else "")
        for part in parts
    ]
    rows += [("learner", gib(learner.total), ""), ("main memory", gib(learner.host), "")]
    rows += [(f"server's {part}", gib(getattr(server, part)), "") for part in ("weights", "cache")]
    return [*rows, ("server", gib(server.total), "")]


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("one_gpu", "Qwen3.5-4B"),
        ("two_gpus", "Qwen3.5-4B"),
        ("eight_gpus", "Qwen3.5-4B"),
        ("qwen3_5_9b", "Qwen3.5-9B"),
    ],
)
def test_a_shipped_config_fits_gpus_of_80_gb(name: str, model: str) -> None:
    config = configured(name, model)
    learner, server = planned(config, model)
    assert learner.total < H100.memory and server.fits
    if config.learner_pool.gpus < 1:
        assert learner.total + server.total < H100.memory


# ---- activations ---------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Callable[..., Any]]:
    """A process that can import flash-linear-attention."""
    yield from interpreting()


@pytest.mark.kernels
@pytest.mark.timeout(600)
@pytest.mark.parametrize("model", MODELS)
def test_the_planner_counts_what_a_micro_batch_keeps(
    elsewhere: Callable[..., Any], model: str
) -> None:
    """One group, within 3 %: at most, and of each kind of layer that is not recomputed."""
    rows, shape = [("", "planned", "counted")], KNOWN[model]
    for recomputed in ("false", "0.5", "true"):
        config = configured("eight_gpus", model, "--model.gradient_checkpointing", recomputed)
        found: Kept = elsewhere(kept_by, model, config)
        expected = activations_of(config, shape, found)
        rows.append((f"recomputed: {recomputed}", gib(expected), gib(found.peak)))
        assert expected == pytest.approx(found.peak, rel=0.03)
        if recomputed == "false":
            whole = found
    full, block = full_layer_numbers(shape), block_numbers(shape.tower)
    first_full = shape.layers // shape.full_layers - 1
    assert whole.layers[first_full] / 2 / whole.tokens == pytest.approx(full, rel=0.01)
    assert whole.blocks[1] / 2 / whole.patches == pytest.approx(block, rel=0.01)
    if first_full:
        branches = 8 * 4 * shape.delta_state
        delta = (whole.layers[0] - branches) / 2 / whole.tokens
        assert delta == pytest.approx(delta_layer_numbers(shape), rel=0.01)
    print(f"{model}: GiB of activations of one group")
    print("\n".join(table(rows, left=1)))


def activations_of(config: RunConfig, shape: ModelShape, found: Kept) -> float:
    """What the planner says of a group of that size, without logits."""
    response = found.asked / 8
    work = Workload(
        image_tokens=found.patches / shape.tower.merge**2,
        prompt_tokens=found.tokens - found.asked,
        crop_tokens=0,
        teacher_tokens=0,
        response_tokens=response,
        source="counted",
    )
    learner = config.learner.model_copy(update={"micro_batch_tokens": found.tokens})
    config = config.model_copy(update={"learner": learner})
    logits = min(CHUNK_BYTES, found.asked * shape.vocabulary * 4)
    return activation_bytes(config, shape, work, 2) - logits


# ---- what ranks do together ----------------------------------------------------------------------
@pytest.fixture
def five_ranks() -> Iterator[DeviceMesh]:
    """Five ranks of which one is here; what it sends goes nowhere."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=5)
    yield init_device_mesh("cpu", (5,))
    dist.destroy_process_group()


@pytest.mark.slow
def test_a_micro_batch_gathers_weights_twice(
    five_ranks: DeviceMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though layers are recomputed, as the planner says; and a fifth of all weights is here."""
    monkeypatch.setattr(tree_attention, "kernels_for", lambda _: RaggedFlash())  # those of GPUs
    model = model_of("Qwen3-VL-4B", configured("eight_gpus", "Qwen3-VL-4B"), layers=4)
    whole = sum(parameter.nbytes for parameter in model.parameters())
    layout = plan_layout([GROUP])
    with FakeTensorMode(allow_non_fake_inputs=True):
        become_fake(model, torch.device("cpu"))
        shard_model(model, five_ranks, torch.bfloat16)
        here = sum(local_part(parameter).nbytes for parameter in model.parameters())
        with Collectives() as together:
            decoder(model, layout, TOKENS, torch.device("cpu"))().sum().backward()
    assert here == pytest.approx(whole / 5, rel=0.01)
    groups = 4 + 1  # layers, and the final norm
    assert together.counts == {
        "_allgather_base_.default": 2 * groups,
        "_reduce_scatter_base_.default": groups,
    }


# ---- what a decoder launches ---------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "layers", "forward", "backward"),
    [("Qwen3-VL-4B", 2, 185, 446), ("Qwen3.5-4B", 4, 2908, 9454)],
)
def test_a_decoder_launches_no_more_and_stays_on_its_device(
    model: str, layers: int, forward: int, backward: int
) -> None:
    """Layers are recomputed. Of Qwen3.5's, three are delta nets by the reference, in chunks."""
    found = decoder_pass(model, layers)
    print(model, found)
    assert found.devices == {"meta"}
    assert found.forward <= forward and found.backward <= backward


def test_what_the_head_takes() -> None:
    """The weight as it is computed with, its gradient in both dtypes; logits are gone by then."""
    shape = KNOWN["Qwen3.5-4B"]
    most = head_pass(shape.vocabulary, shape.width, rows=8 * 170)
    assert most == pytest.approx(8 * shape.embedding_parameters, rel=0.02)
