"""Inside a micro-batch the host never waits for the device.

Holds learner/model/transfer.py.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from common.config import ModelSection, ObjectiveSection
from learner.checking.lengths import scaled_lengths
from learner.checking.shapes import make_batch, make_model, tenth_of_4b
from learner.model import tree_attention
from learner.model.packing import PackedRow, pack
from learner.model.ragged_attention import RaggedFlash
from learner.model.student import prepare_to_train, response_hidden_states
from learner.objective.head import head_of
from learner.objective.loss import objective
from learner.objective.tokens import ResponseTokens, SamplingLaw
from learner.views.inputs import PreparedGroup
from tests.learner.device_waits import DeviceWaits, OnHost, on_host
from tests.learner.ragged_on_cpu import ragged_on_cpu  # noqa: F401

CPU = torch.device("cpu")


@pytest.fixture(params=["qwen3_vl", "qwen3_5"])
def model(request: pytest.FixtureRequest) -> Any:
    torch.backends.cuda.enable_cudnn_sdp(True)  # as torch has it
    plain = make_model(request.param, tenth_of_4b(4, 512))
    return prepare_to_train(plain, ModelSection(gradient_checkpointing=True), CPU)


def row_of(groups: tuple[PreparedGroup, ...], side: str) -> PackedRow:
    row = pack([getattr(g, side) for g in groups], [g.responses for g in groups]).to(CPU)
    return replace(row, grid_thw_on_host=on_host(row.grid_thw_on_host))


def tokens_of(groups: tuple[PreparedGroup, ...]) -> ResponseTokens:
    ids_T = torch.from_numpy(np.concatenate([ids for g in groups for ids in g.responses]))
    return ResponseTokens(ids_T, torch.zeros(len(ids_T)), torch.full((len(ids_T),), 0.1))


def micro_batch(model: Any, groups: tuple[PreparedGroup, ...]) -> Tensor:
    """Teacher (the student, as in policy = current), student, both objectives, backward."""
    law = SamplingLaw(1.0, torch.tensor([5]))
    rows = {side: row_of(groups, side) for side in ("student", "teacher")}
    responses = tokens_of(groups)
    loss: Any
    with DeviceWaits() as waits:
        with torch.no_grad():
            of_teacher = response_hidden_states(model, rows["teacher"], torch.float32)
        hidden = response_hidden_states(model, rows["student"], torch.float32)
        heads = ((1.0, head_of(model, of_teacher)),)
        loss = sum(
            objective(
                head_of(model, hidden), heads, responses, ObjectiveSection(top_k=top_k), law
            ).loss
            for top_k in (20, None)
        )
        torch.autograd.backward(loss)
    assert not isinstance(hidden, OnHost), "what the device computed counts as the host's"
    assert waits.counts == {}
    return loss.detach()


@pytest.mark.usefixtures("ragged_on_cpu")
def test_a_micro_batch_waits_for_nothing(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree_attention, "kernels_for", lambda tensor: RaggedFlash())
    groups = make_batch(1, 2, scaled_lengths(96), model, 512).groups
    assert micro_batch(model, groups) > 0
    assert all(p.grad is not None for p in model.base_model.visual.parameters())


def test_waits_of_transformers_own_way_are_seen(model: Any) -> None:
    """The count counts: what the learner does not use waits in each block and for each mask."""
    (group,) = make_batch(1, 1, scaled_lengths(64), model, 512).groups
    view = group.student
    with DeviceWaits() as waits:
        features = model.base_model.get_image_features(
            view.patching.patches([view.pixels], torch.float32),
            view.image_grid_thw,
            return_dict=True,
        )
        embedded = model.get_input_embeddings()(view.input_ids[None])
        model.base_model.get_placeholder_mask(view.input_ids, embedded, features.pooler_output[0])
    depth = len(model.base_model.visual.blocks)
    assert waits.counts["tolist"] >= 3 * depth
    assert waits.counts["_local_scalar_dense"] >= 2
    assert waits.counts["repeat_interleave"] >= 4


def test_attention_of_cudnn_is_off_once_a_model_is_prepared(model: Any) -> None:
    assert not torch.backends.cuda.cudnn_sdp_enabled()
