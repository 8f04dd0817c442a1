"""What a micro-batch keeps for its backward pass, counted at published shapes on meta tensors.

All of it goes through the learner's own layers and flash-linear-attention's own code, whose kernels
are not launched: storages that live are counted. To be called in a process of
`tests.learner.interpreter`, where fla can be imported.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from common.config import RunConfig
from learner.checking.lengths import PUBLISHED
from learner.checking.shapes import make_batch
from learner.model.packing import PackedRow, pack
from learner.model.vision import embed, image_features
from tests.deploy.planning.models_at_size import META, MODELS, model_of
from tests.living_bytes import LivingBytes


@dataclass(frozen=True)
class Kept:
    """Bytes of one group, and how large the group is.

    Args:
        tokens: of the packed row.
        patches: of its picture.
        asked: tokens whose last hidden states are asked for.
        layers: what each decoder layer added to what lives.
        blocks: the same of the vision tower.
        whole: what lives between forward and backward pass.
        peak: what lives at most, without parameters.
    """

    tokens: int
    patches: int
    asked: int
    layers: list[int]
    blocks: list[int]
    whole: int
    peak: int


def kept_by(name: str, config: RunConfig) -> Kept:
    """Count one of MODELS over a published group, in the 16 bits that a sharded model computes in.

    Gradients of parameters are given up at once, and the embedding has none: the planner has both
    with what is gathered.
    """
    _launch_nothing()
    model = model_of(name, config).to(torch.bfloat16)
    model.get_input_embeddings().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(_forget_gradient)
    (group,) = make_batch(1, 1, PUBLISHED, model, MODELS[name][1].vocabulary).groups
    row = pack([group.student], [group.responses])
    assert row.layout.asked_M is not None
    with _flash_attention(), LivingBytes() as living:
        added = {
            kind: _additions(stack, living)
            for kind, stack in (
                ("layers", model.base_model.language_model.layers),
                ("blocks", model.base_model.visual.blocks),
            )
        }
        hidden = _hidden_states(model, row.to(META))
        layers, blocks = ([after - before for before, after in spans] for spans in added.values())
        whole = living.living
        hidden.sum().backward()
    return Kept(
        tokens=row.layout.num_tokens,
        patches=int(row.grid_thw_on_host.prod()),
        asked=len(row.layout.asked_M),
        layers=layers,
        blocks=blocks,
        whole=whole,
        peak=living.peak,
    )


def _additions(stack: nn.ModuleList, living: LivingBytes) -> list[tuple[int, int]]:
    """What lives before and after each first forward pass of a layer; filled as they compute."""
    spans: list[tuple[int, int]] = []
    begun: list[int] = []

    def after(*_: Any) -> None:
        if len(spans) < len(stack):
            spans.append((begun[-1], living.living))

    for module in stack:
        module.register_forward_pre_hook(lambda *_: begun.append(living.living))
        module.register_forward_hook(after)
    return spans


def _hidden_states(model: Any, row: PackedRow) -> Tensor:
    """The same as `response_hidden_states`, which asks for autocast: the meta device has none."""
    embedded_1LD, rest = embed(model, row, image_features(model, row, torch.bfloat16))
    hidden: Tensor = model.base_model.language_model(
        inputs_embeds=embedded_1LD,
        position_ids=row.position_ids_3L[:, None],
        use_cache=False,
        layout=row.layout,
        **rest,
    ).last_hidden_state
    return hidden


def _forget_gradient(parameter: Tensor) -> None:
    parameter.grad = None


@contextmanager
def _flash_attention() -> Iterator[None]:
    """One operator, as on a GPU: on the meta device torch would take attention apart."""
    attend = functional.scaled_dot_product_attention
    functional.scaled_dot_product_attention = _flash
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = attend


def _flash(query: Tensor, key: Tensor, value: Tensor, *_: Any, **options: Any) -> Tensor:
    found = torch.ops.aten._scaled_dot_product_flash_attention(
        query, key, value, scale=options.get("scale")
    )
    output: Tensor = found[0]
    return output


def _launch_nothing() -> None:
    from triton.runtime.autotuner import Autotuner, Heuristics
    from triton.runtime.interpreter import InterpretedFunction

    for kind in (Autotuner, Heuristics, InterpretedFunction):
        kind.run = lambda *arguments, **options: None
