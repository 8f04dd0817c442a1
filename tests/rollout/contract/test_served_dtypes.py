"""Servers in bfloat16: what they hold in float32 all the same reaches them unrounded.

The pushes are the learner's own: its student, its buckets, its checksums.

Holds common/weight_dtypes.py.
"""

import asyncio

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from common.config import ModelSection
from common.families import family_named
from common.weight_dtypes import is_served_in_float32, is_stored_in_float32
from learner.model.student import load_student
from learner.push.buckets import Snapshot
from learner.push.expectations import served_checksums
from learner.push.pushed_weights import PushedWeights
from learner.push.weight_files import WeightFolder
from tests.rollout.contract.pushing import DISTRIBUTED, checksums, joined, left
from tests.rollout.support import data_url, png, reference_logprobs
from tests.tiny_model import PATCH_SIZES, PROBLEM

FAMILIES = ("qwen3_5", "qwen3_vl")  # read by conftest.py, as the next one
DTYPE = "bfloat16"
BFLOAT16_NATS = 0.15  # as the learner's probe has it


@pytest.fixture
def student(other_checkpoint):
    section = ModelSection(path=str(other_checkpoint), gradient_checkpointing=False)
    return load_student(section, torch.device("cpu"))


@pytest.fixture
def snapshot(student) -> Snapshot:
    return snapshot_now(student)


def snapshot_now(student, bucket_mib: float = 0.05) -> Snapshot:
    weights = dict(PushedWeights(student))
    taken = Snapshot(weights, torch.bfloat16, bucket_mib)
    taken.begin()
    taken.gather()
    return taken


async def pushed_by_learner(api, snapshot: Snapshot) -> None:
    trainer = await joined(api, "learner")
    await api.ok("/pause_generation", {"mode": "retract"})
    await api.ok("/begin_weight_update", {})
    for bucket, content in zip(snapshot.buckets, snapshot.ready(), strict=True):
        body = {
            "names": list(bucket.names), "dtypes": list(bucket.dtypes),
            "shapes": [list(shape) for shape in bucket.shapes], "group_name": trainer.name,
            "load_format": "flattened_bucket", "flush_cache": False, "weight_version": "1",
        }  # fmt: skip
        await asyncio.gather(api.ok(DISTRIBUTED, body), asyncio.to_thread(trainer.send, [content]))
    await api.ok("/end_weight_update", {})
    await left(api, trainer)


async def check_served(api, snapshot: Snapshot, served) -> None:
    expected = served_checksums(snapshot.tensors(), family_named(served.family)).by_name
    found = await checksums(api)
    assert {name: found.get(name) for name in expected} == expected


def test_the_checkpoint_holds_what_bfloat16_cannot(served):
    stored = load_file(served.checkpoint / "model.safetensors")
    kept = {name: tensor for name, tensor in stored.items() if is_stored_in_float32(name)}
    assert bool(kept) == (served.family == "qwen3_5")
    for name, tensor in stored.items():
        assert tensor.dtype == (torch.float32 if name in kept else torch.bfloat16), name
    for name, tensor in kept.items():
        assert not torch.equal(tensor.bfloat16().float(), tensor), name


async def test_a_push_of_the_learners_is_what_the_server_holds(api, snapshot, served):
    assert len(snapshot.buckets) > 2
    await pushed_by_learner(api, snapshot)
    await check_served(api, snapshot, served)


async def test_a_push_through_files_is_what_the_server_holds(
    api, snapshot, student, tmp_path, served
):
    files = WeightFolder(tmp_path, student, "run").write("version-000001-1", snapshot)
    await api.ok("/pause_generation", {"mode": "retract"})
    body = {"model_path": files.folder, "weight_version": "1", "flush_cache": True}
    await api.ok("/update_weights_from_disk", body)
    await check_served(api, snapshot, served)


async def test_what_the_checkpoint_holds_in_float32_is_served_unrounded(api, checkpoint, served):
    """Before any push, too: what is pushed first is then what was there."""
    section = ModelSection(path=str(checkpoint), gradient_checkpointing=False)
    start = snapshot_now(load_student(section, torch.device("cpu")))
    await check_served(api, start, served)
    stored = load_file(checkpoint / "model.safetensors")
    sent = {name.rpartition("layers.")[2]: t for name, t in start.tensors().items()}
    for name, tensor in stored.items():
        if is_served_in_float32(name):
            assert torch.equal(sent[name.rpartition("layers.")[2]], tensor), name


async def test_log_probs_after_a_push_are_those_of_the_new_weights(
    api, served, snapshot, other_model, renderer
):
    await pushed_by_learner(api, snapshot)
    await api.ok("/continue_generation", {})
    unit = 2 * PATCH_SIZES[served.family]
    picture = png(4 * unit, 4 * unit)
    ids = renderer.prompt_token_ids(PROBLEM).tolist()
    answer = await api.generate(
        {"input_ids": ids, "image_data": [data_url(picture)]},
        banned=renderer.vision_token_ids, ignore_eos=True,
    )  # fmt: skip
    expected = reference_logprobs(
        other_model, renderer, picture, answer["output_ids"],
        banned=tuple(renderer.vision_token_ids),
    )  # fmt: skip
    found = np.array([pair[0] for pair in answer["meta_info"]["output_token_logprobs"]])
    np.testing.assert_allclose(found, expected, atol=BFLOAT16_NATS)
