"""Pauses and weight updates: a trainer in this process pushes to a real server over gloo."""

import asyncio
from hashlib import sha256

import numpy as np
import pytest

from common.push_groups import PREFIX
from tests.rollout.contract.pushing import DISTRIBUTED, joined, left, push
from tests.rollout.support import data_url, png, reference_logprobs
from tests.rollout.trainer import Trainer, manifest
from tests.tiny_model import PROBLEM
from tests.waiting import LIMIT_S

IMAGE = png(64, 64)


@pytest.fixture
def ask(api, renderer):
    """Generates for one image and question, never past an end token."""
    ids = renderer.prompt_token_ids(PROBLEM).tolist()
    body = {"input_ids": ids, "image_data": [data_url(IMAGE)]}

    def send(**params):
        return api.generate(body, banned=renderer.vision_token_ids, ignore_eos=True, **params)

    return send


def check_logprobs(answer, reference, renderer, *, start: int = 0, end: int | None = None):
    banned = tuple(renderer.vision_token_ids)
    expected = reference_logprobs(reference, renderer, IMAGE, answer["output_ids"], banned=banned)
    found = np.array([pair[0] for pair in answer["meta_info"]["output_token_logprobs"]])
    np.testing.assert_allclose(found[start:end], expected[start:end], atol=2e-5)


@pytest.mark.parametrize("buckets", [1, 3])
async def test_push_replaces_every_weight(api, ask, model, other_model, renderer, buckets):
    before = await ask()
    check_logprobs(before, model, renderer)
    trainer = await joined(api, f"{PREFIX if buckets > 1 else ''}push-{buckets}")
    await api.ok("/pause_generation", {"mode": "retract"})
    await push(api, trainer, other_model.state_dict(), version="1", buckets=buckets)
    await api.ok("/continue_generation", {})
    after = await ask()
    check_logprobs(after, other_model, renderer)
    assert after["meta_info"]["weight_version"] == "1"
    assert (await api.get("/model_info"))[1]["weight_version"] == "1"
    await left(api, trainer)


async def test_plain_tensors_one_broadcast_each(api, ask, other_model, renderer):
    trainer = await joined(api, "plain")
    state = other_model.state_dict()
    await api.ok("/begin_weight_update", {})
    await asyncio.gather(
        api.ok(DISTRIBUTED, {
            **manifest(state), "group_name": trainer.name, "flush_cache": True,
            "weight_version": "v9",
        }),
        asyncio.to_thread(trainer.send, state.values()),
    )  # fmt: skip
    await api.ok("/end_weight_update", {})
    answer = await ask()
    check_logprobs(answer, other_model, renderer)
    assert answer["meta_info"]["weight_version"] == "v9"
    await left(api, trainer)


async def test_without_the_tied_head_the_embedding_moves_it(api, ask, other_model, renderer):
    state = {k: v for k, v in other_model.state_dict().items() if k != "lm_head.weight"}
    trainer = await joined(api, "tied")
    await push(api, trainer, state, version="2")
    check_logprobs(await ask(), other_model, renderer)
    await left(api, trainer)


async def checksums(api) -> dict[str, str]:
    answer = await api.ok("/weights_checker", {"action": "checksum"})
    return answer["ranks"][0]["checksums"]


async def test_checksums_tell_weights_apart(api, checkpoint, other_checkpoint):
    found = []
    for folder in (checkpoint, other_checkpoint, checkpoint):
        await api.ok("/update_weights_from_disk", {"model_path": str(folder)})
        found.append(await checksums(api))
    assert found[0] == found[2] != found[1]


async def test_the_report_of_checksums(api):
    answer = await api.ok("/weights_checker", {"action": "checksum"})
    rank = answer["ranks"][0]
    assert (answer["success"], answer["message"], len(answer["ranks"])) == (True, "Success.", 1)
    joined_up = "".join(name + rank["checksums"][name] for name in sorted(rank["checksums"]))
    assert rank["per_gpu_checksum"] == sha256(joined_up.encode()).hexdigest()
    assert answer["per_engine_checksum"] == sha256(rank["per_gpu_checksum"].encode()).hexdigest()
    places = {f"{kind}{what}": n for kind in ("tp_", "dp_", "pp_", "") for what, n in
              (("rank", 0), ("size", 1))}  # fmt: skip
    assert rank["parallelism_info"] == [{"role": "target", **places}]
    assert (await api.post("/weights_checker", {}))[1] == answer
    status, answer = await api.post("/weights_checker", {"action": "nonsense"})
    assert (status, answer["success"]) == (400, False)


async def test_session_rules(api, other_model):
    state = manifest(other_model.state_dict())
    status, answer = await api.post(DISTRIBUTED, {**state, "group_name": "none"})
    assert status == 400
    assert "begin_weight_update" in answer["message"]
    status, answer = await api.post("/end_weight_update", {})
    assert status == 400
    assert "no weight-update session is open" in answer["message"]
    await api.ok("/begin_weight_update", {"selector": "all"})
    status, answer = await api.post("/begin_weight_update", {})
    assert status == 400
    assert "already open" in answer["message"]
    status, answer = await api.post(DISTRIBUTED, {**state, "group_name": "none"})
    assert status == 400
    assert answer["success"] is False
    await api.ok("/end_weight_update", {})
    assert (await api.post("/destroy_weights_update_group", {"group_name": "none"}))[0] == 400
    await api.generate({"input_ids": [1, 7]})


async def test_an_unknown_name_is_passed_over_without_a_word(api, other_model):
    """So a push has to be verified: all but that tensor has changed, and nobody says so."""
    state = dict(other_model.state_dict())
    before = await checksums(api)
    state["model.language_model.no_such.weight"] = state.pop(
        "model.visual.merger.linear_fc1.weight"
    )
    trainer = await joined(api, "unknown")
    status, _ = await push(api, trainer, state, version="3")
    assert status == 200
    after = await checksums(api)
    name = "visual.merger.linear_fc1.weight"
    assert after[name] == before[name]
    assert after["model.embed_tokens.weight"] != before["model.embed_tokens.weight"]
    await left(api, trainer)


async def test_a_tensor_of_another_shape_is_refused(api, other_model):
    state = dict(other_model.state_dict())
    name = "model.language_model.norm.weight"
    state[name] = state[name][:-1]
    trainer = await joined(api, "shape")
    status, answer = await push(api, trainer, state, version="3")
    assert (status, answer["success"]) == (400, False)
    assert (await api.get("/model_info"))[1]["weight_version"] == "default"
    assert (await push(api, trainer, other_model.state_dict(), version="4"))[0] == 200
    await left(api, trainer)


OURS = pytest.mark.parametrize("prefix", ["", PREFIX], ids=["anybody's", "ours"])


@OURS
async def test_a_trainer_that_leaves_midway_costs_an_error_not_a_hang(api, other_model, prefix):
    trainer = await joined(api, f"{prefix}dying")
    name = trainer.name
    await api.ok("/begin_weight_update", {})
    body = {**manifest(other_model.state_dict()), "group_name": trainer.name}
    receiving = asyncio.ensure_future(api.post(DISTRIBUTED, body))
    await asyncio.sleep(0.2)  # the server is waiting for the first tensor
    await asyncio.to_thread(trainer.leave)
    del trainer
    async with asyncio.timeout(LIMIT_S):
        status, answer = await receiving
    assert status == 400
    assert "Failed to receive weights" in answer["message"]
    await api.ok("/end_weight_update", {})
    await api.ok("/destroy_weights_update_group", {"group_name": name})
    again = await joined(api, f"{prefix}dying-2")
    await push(api, again, other_model.state_dict(), version="4")
    await left(api, again)


@OURS
async def test_a_trainer_that_falls_silent_costs_the_timeout_not_more(api, other_model, prefix):
    trainer = await joined(api, f"{prefix}silent")
    await api.ok("/begin_weight_update", {})
    body = {**manifest(other_model.state_dict()), "group_name": trainer.name}
    status, answer = await api.post(DISTRIBUTED, body, timeout_s=40)
    assert (status, answer["success"]) == (400, False)
    await api.ok("/end_weight_update", {})
    await left(api, trainer)
    again = await joined(api, f"{prefix}after-silence")
    assert (await push(api, again, other_model.state_dict(), version="4"))[0] == 200
    await left(api, again)


async def test_a_trainer_of_ours_that_connects_and_sends_nothing_has_not_joined(api, other_model):
    """NCCL connects in the first broadcast only: so that is a part of joining."""
    trainer = Trainer(f"{PREFIX}mute")
    (status, answer), _ = await asyncio.gather(
        api.post("/init_weights_update_group", trainer.init_body, timeout_s=40),
        asyncio.to_thread(trainer.connect),
    )
    assert status == 400
    assert "Failed to initialize custom process group" in answer["message"]
    await asyncio.to_thread(trainer.leave)
    again = await joined(api, f"{PREFIX}after-mute")
    assert (await push(api, again, other_model.state_dict(), version="4"))[0] == 200
    await left(api, again)


async def test_update_from_disk(api, ask, other_checkpoint, other_model, renderer):
    status, answer = await api.post("/update_weights_from_disk", {"model_path": "/nonexistent"})
    assert (status, answer["success"]) == (400, False)
    await api.ok("/update_weights_from_disk", {
        "model_path": str(other_checkpoint), "weight_version": "5", "flush_cache": True,
    })  # fmt: skip
    answer = await ask()
    check_logprobs(answer, other_model, renderer)
    assert answer["meta_info"]["weight_version"] == "5"


async def test_update_weight_version(api):
    await api.ok("/update_weight_version", {"new_version": "42"})
    assert (await api.get("/model_info"))[1]["weight_version"] == "42"


@pytest.fixture
def long(served) -> int:
    return served.many_tokens


async def start_long(api, ask, tokens: int, count: int = 2):
    await ask(max_new_tokens=1)  # the first image takes SGLang over a second
    tasks = [asyncio.ensure_future(ask(max_new_tokens=tokens)) for _ in range(count)]
    await api.until_running()
    await asyncio.sleep(0.5)  # for some tokens
    assert not any(task.done() for task in tasks)
    return tasks


async def test_retract_recomputes_running_requests_with_the_new_weights(
    api, ask, long, model, other_model, renderer
):
    running = await start_long(api, ask, long)
    await api.ok("/pause_generation", {"mode": "retract"})
    waiting = asyncio.ensure_future(ask())
    trainer = await joined(api, "retract")
    status, _ = await push(api, trainer, other_model.state_dict(), version="6")
    assert status == 200
    assert not any(task.done() for task in [*running, waiting])
    await api.ok("/continue_generation", {})
    for answer in await asyncio.gather(*running):
        meta = answer["meta_info"]
        assert meta["finish_reason"] == {"type": "length", "length": long}
        assert meta["num_retractions"] == 1
        old, new = meta["weight_versions"]
        assert (old["version"], old["start"]) == ("default", 0)
        assert (new["version"], new["end"]) == ("6", long)
        assert 0 < old["end"] == new["start"] < long
        check_logprobs(answer, model, renderer, end=old["end"])
        check_logprobs(answer, other_model, renderer, start=new["start"])
    late = await waiting
    assert late["meta_info"]["weight_versions"] == [{"version": "6", "start": 0, "end": 8}]
    await left(api, trainer)


async def test_in_place_goes_on_with_the_old_cache(api, ask, long, other_model, renderer):
    running = await start_long(api, ask, long, count=1)
    await api.ok("/pause_generation", {"mode": "in_place"})
    trainer = await joined(api, "in-place")
    status, answer = await push(api, trainer, other_model.state_dict(), version="7")
    assert status == 400  # the cache cannot be flushed, although weights and version changed
    assert "Weights were updated" in answer["message"]
    await api.ok("/continue_generation", {})
    meta = (await running[0])["meta_info"]
    assert [span["version"] for span in meta["weight_versions"]] == ["default", "7"]
    assert meta["num_retractions"] == 0
    await left(api, trainer)
    await api.ok("/flush_cache")  # until then a prefix of the old weights may be met
    check_logprobs(await ask(), other_model, renderer)


async def test_abort_returns_running_requests_at_once(api, ask, long):
    running = await start_long(api, ask, long)
    await api.ok("/pause_generation", {"mode": "abort"})
    async with asyncio.timeout(LIMIT_S):
        answers = await asyncio.gather(*running)
    for answer in answers:
        assert answer["meta_info"]["finish_reason"]["type"] == "abort"
        assert 0 < len(answer["output_ids"]) < long
    late = asyncio.ensure_future(ask())
    await asyncio.sleep(0.2)  # in which it would be answered
    assert not late.done()
    await api.ok("/continue_generation", {})
    assert (await late)["meta_info"]["finish_reason"]["type"] in ("length", "stop")


async def test_begin_outside_a_pause_waits_for_running_requests(api, ask, long):
    running = await start_long(api, ask, long)
    await api.ok("/begin_weight_update", {})
    _, unfinished = await asyncio.wait(running, timeout=LIMIT_S)  # their answers are under way
    assert not unfinished
    await ask()  # a session alone does not stop generation
    await api.ok("/end_weight_update", {})


async def test_while_paused_health_waits_and_ready_says_no(api):
    await api.ok("/pause_generation", {"mode": "retract"})
    assert (await api.get("/ready"))[0] == 503
    with pytest.raises(TimeoutError):
        await api.get("/health", timeout_s=0.7)
    assert (await api.get("/model_info"))[0] == 200
    await api.ok("/continue_generation", {})
    assert (await api.get("/ready"))[0] == 200
    assert (await api.get("/health"))[0] == 200
