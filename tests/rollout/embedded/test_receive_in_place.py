"""Buckets that are received into the model itself, and those that have to be copied."""

import asyncio
import threading
from collections import deque

import pytest
import pytest_asyncio
import torch
from torch import Tensor, nn

from common.families.qwen3_vl import QWEN3_VL
from common.served_names import pushed_name, served_tensors
from rollout.embedded.bucket_memory import bucket_in_model
from rollout.embedded.scheduler import Scheduler
from rollout.embedded.update_session import UpdateSession
from rollout.embedded.weights import UpdateGroup, checksums, parse_dtypes
from rollout.http_engine import HttpEngine
from tests.rollout.support import load_model
from tests.rollout.trainer import Trainer, bucket_of, chunks, flat, manifest

TIMEOUT_S = 20.0


class Small(nn.Module):
    """A tied head, two dtypes, buffers of both kinds."""

    dtype = torch.float32

    @classmethod
    def from_pretrained(cls, folder: str, **_: object) -> "Small":
        return cls(float(folder))

    def __init__(self, value: float = 1.0) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.body = nn.Linear(4, 4)
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.embedding.weight
        self.odd = nn.Parameter(torch.empty(3, dtype=torch.bfloat16))  # 6 bytes
        self.register_buffer("kept", torch.empty(6))
        self.register_buffer("derived", torch.full((2,), 7.0), persistent=False)
        self.requires_grad_(False)
        for number, tensor in enumerate(self.state_dict().values()):
            tensor.fill_(value + number)


class FromMemory(UpdateGroup):
    """The group, without a trainer: a broadcast is the next of `sent`."""

    def __init__(self) -> None:
        self.sent: deque[Tensor] = deque()
        self.half_way = threading.Event()
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.fails = False

    def _broadcast(self, tensor: Tensor) -> None:
        sent = self.sent.popleft()
        half = len(sent) // 2
        tensor[:half].copy_(sent[:half])
        self.half_way.set()
        assert self.may_go_on.wait(TIMEOUT_S)
        if self.fails:
            raise RuntimeError("the trainer left")
        tensor[half:].copy_(sent[half:])


class Engine:
    """An open update session over a model."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.scheduler = Scheduler(model, version="old", threads=1)
        self.updates = UpdateSession(model, self.scheduler, TIMEOUT_S)
        self.group = FromMemory()

    async def open(self, *, paused: bool = True) -> None:
        self.scheduler.start()
        if paused:
            await asyncio.wrap_future(self.scheduler.pause("retract"))
        await self.updates.init_group({
            "backend": "gloo", "master_address": "", "master_port": 0, "rank_offset": 1,
            "world_size": 2,
        })  # fmt: skip
        await self.updates.begin({})

    async def push(self, state: dict[str, Tensor], **fields) -> tuple[bool, str]:
        """One bucket."""
        self.group.sent.append(flat(state.values()))
        body = {**manifest(state), "load_format": "flattened_bucket", "weight_version": "new"}
        return await self.updates.receive({**body, **fields})

    def addresses(self) -> list[int]:
        return [tensor.data_ptr() for tensor in self.model.state_dict().values()]


@pytest_asyncio.fixture
async def opened(monkeypatch):
    """Makes an Engine over a model."""
    engines: list[Engine] = []

    async def make(model: nn.Module, *, paused: bool = True) -> Engine:
        engine = Engine(model)
        engines.append(engine)
        monkeypatch.setattr("rollout.embedded.update_session.UpdateGroup", lambda *_: engine.group)
        await engine.open(paused=paused)
        return engine

    yield make
    for engine in engines:
        engine.scheduler.close()


def without_head(model: nn.Module) -> dict[str, Tensor]:
    """The state as the learner sends it: tied tensors once, and the odd one last."""
    state = {name: t for name, t in model.state_dict().items() if name != "head.weight"}
    odd = state.pop("odd")
    return {**state, "odd": odd}


def check_equal(model: nn.Module, other: nn.Module) -> None:
    expected = other.state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


async def test_a_bucket_lands_in_the_model_and_the_next_one_in_the_same_place(opened):
    engine = await opened(Small())
    parameters = dict(engine.model.named_parameters())
    before = engine.addresses()
    assert await engine.push(without_head(Small(2.0))) == (
        True, "Succeeded to update model weights.",
    )  # fmt: skip
    check_equal(engine.model, Small(2.0))
    assert engine.scheduler.version == "new"
    addresses = engine.addresses()
    assert not set(addresses) & set(before)
    assert len({t.untyped_storage().data_ptr() for t in engine.model.state_dict().values()}) == 1
    for name, parameter in engine.model.named_parameters():
        assert parameter is parameters[name]
    await engine.push(without_head(Small(3.0)))
    check_equal(engine.model, Small(3.0))
    assert engine.addresses() == addresses


async def test_buckets_that_are_cut_otherwise_move_the_tensors_again(opened):
    engine = await opened(Small())
    for value, count in ((2.0, 2), (3.0, 3), (4.0, 1), (5.0, 2)):
        for part in chunks(without_head(Small(value)), count):
            assert (await engine.push(part))[0]
        check_equal(engine.model, Small(value))


@pytest.mark.parametrize("name", ["embedding.weight", "head.weight"])
async def test_a_tied_head_stays_its_embedding(opened, name):
    engine = await opened(Small())
    await engine.push({name: Small(2.0).state_dict()[name]})
    model = engine.model
    assert model.head.weight is model.embedding.weight
    assert torch.equal(model.head.weight, Small(2.0).head.weight)
    assert torch.equal(model.body.weight, Small().body.weight)


async def test_what_is_not_in_the_state_dict_is_not_touched(opened):
    engine = await opened(Small())
    before = engine.model.derived.data_ptr()
    await engine.push(without_head(Small(2.0)))
    assert engine.model.derived.data_ptr() == before
    assert engine.model.derived.tolist() == [7.0, 7.0]


def misaligned() -> dict[str, Tensor]:
    state = without_head(Small(2.0))
    return {"odd": state.pop("odd"), **state}


def of_another_dtype() -> dict[str, Tensor]:
    return {name: tensor.to(torch.float64) for name, tensor in without_head(Small(2.0)).items()}


def with_an_unknown_name() -> dict[str, Tensor]:
    return {"none": torch.zeros(4), **without_head(Small(2.0))}


def with_the_head_twice() -> dict[str, Tensor]:
    return {"head.weight": Small(2.0).head.weight, **without_head(Small(2.0))}


@pytest.mark.parametrize(
    "make_state", [misaligned, of_another_dtype, with_an_unknown_name, with_the_head_twice]
)
async def test_what_does_not_fit_is_copied(opened, make_state):
    engine = await opened(Small())
    before = engine.addresses()
    assert (await engine.push(make_state()))[0]
    assert engine.addresses() == before
    check_equal(engine.model, Small(2.0))


async def test_outside_a_pause_a_bucket_is_copied(opened):
    engine = await opened(Small(), paused=False)
    before = engine.addresses()
    assert (await engine.push(without_head(Small(2.0))))[0]
    assert engine.addresses() == before
    check_equal(engine.model, Small(2.0))


async def test_requests_that_are_to_be_aborted_are_aborted_when_the_weights_are_there(opened):
    engine = await opened(Small())
    before = engine.addresses()
    assert (await engine.push(without_head(Small(2.0)), abort_all_requests=True))[0]
    assert engine.addresses() == before


async def test_tensors_that_overlap_are_not_parted():
    model = nn.Module()
    memory = torch.arange(8.0)
    model.whole = nn.Parameter(memory, requires_grad=False)
    model.upper = nn.Parameter(memory[4:], requires_grad=False)
    state = {"whole": memory}
    fields = manifest(state)
    assert bucket_in_model(model, ["upper"], [torch.float32], [[4]]) is None
    fields["dtypes"] = parse_dtypes(fields["dtypes"])
    bucket = bucket_in_model(model, *fields.values())  # where it lies already: nothing is moved
    assert bucket.data_ptr() == memory.data_ptr()
    assert model.upper.data_ptr() == memory[4:].data_ptr()


async def test_another_shape_is_received_and_refused_and_nothing_is_changed(opened):
    engine = await opened(Small())
    before = engine.addresses()
    state = without_head(Small(2.0))
    state["body.bias"] = state["body.bias"][:-1]
    ok, message = await engine.push(state)
    assert (ok, "has shape" in message) == (False, True)
    assert not engine.group.sent  # the trainer is not left waiting
    assert engine.addresses() == before
    check_equal(engine.model, Small())
    assert engine.scheduler.version == "old"


async def test_a_manifest_that_makes_no_sense_is_refused(opened):
    engine = await opened(Small())
    ok, message = await engine.push({"odd": torch.zeros(3)}, dtypes=["float32", "float32"])
    assert (ok, message) == (
        False, "Failed to receive weights: 1 names, 2 dtypes and 1 shapes",
    )  # fmt: skip


async def test_a_trainer_that_leaves_half_way_leaves_mixed_weights_and_a_paused_engine(opened):
    engine = await opened(Small())
    engine.group.fails = True
    ok, message = await engine.push(without_head(Small(2.0)))
    assert (ok, message) == (False, "Failed to receive weights: the trainer left")
    assert torch.equal(engine.model.kept, Small(2.0).kept)
    assert torch.equal(engine.model.body.weight, Small().body.weight)
    assert engine.scheduler.is_paused
    assert engine.scheduler.version == "old"
    engine.group.fails = False
    assert (await engine.push(without_head(Small(3.0))))[0]
    check_equal(engine.model, Small(3.0))


async def test_while_a_bucket_comes_nothing_resumes_or_reads_the_weights(opened):
    engine = await opened(Small())
    engine.group.may_go_on.clear()
    pushing = asyncio.ensure_future(engine.push(without_head(Small(2.0))))
    assert await asyncio.to_thread(engine.group.half_way.wait, TIMEOUT_S)
    resuming = engine.scheduler.resume()
    reading = engine.scheduler.run(lambda: engine.model.kept.clone())
    loading = asyncio.ensure_future(engine.updates.load_folder({"model_path": "9"}))
    await asyncio.sleep(0.1)  # in which they would be done
    assert engine.scheduler.is_paused
    assert not (resuming.done() or reading.done() or loading.done() or pushing.done())
    engine.group.may_go_on.set()
    assert (await pushing)[0]
    assert torch.equal(await asyncio.wrap_future(reading), Small(2.0).kept)
    assert (await loading)[0]
    check_equal(engine.model, Small(9.0))
    await asyncio.wrap_future(resuming)
    assert not engine.scheduler.is_paused


async def test_a_model_resumed_in_the_meantime_is_not_written(opened):
    """It was paused when the request came, and is not when the request has its turn."""
    engine = await opened(Small())
    before = engine.addresses()
    held = threading.Event()
    engine.scheduler.run(lambda: held.wait(TIMEOUT_S))
    engine.scheduler.resume()
    pushing = asyncio.ensure_future(engine.push(without_head(Small(2.0))))
    await asyncio.sleep(0.05)  # in which it asks whether the engine is paused
    held.set()
    assert (await pushing)[0]
    assert engine.addresses() == before
    check_equal(engine.model, Small(2.0))


async def test_a_transformers_model_computes_the_same_either_way(opened, checkpoint, other_model):
    """Under the names that the learner sends and those of transformers."""
    state = {k: t for k, t in other_model.state_dict().items() if k != "lm_head.weight"}
    by_pushed_name = {pushed_name(name): tensor for name, tensor in state.items()}
    ids = torch.arange(7, 20)[None]
    expected = other_model(input_ids=ids).logits
    for sent, paused in ((state, True), (by_pushed_name, True), (by_pushed_name, False)):
        engine = await opened(load_model(checkpoint), paused=paused)
        before = engine.addresses()
        for part in chunks(sent, 3):
            assert (await engine.push(part))[0]
        assert (engine.addresses() == before) is not paused
        check_equal(engine.model, other_model)
        assert torch.equal(engine.model(input_ids=ids).logits, expected)


async def test_over_gloo_both_ways_give_the_trainers_weights(
    embedded_url, model, other_model, renderer
):
    """A server process; which way is taken is up to its pause."""
    async with HttpEngine(
        embedded_url, request_timeout_s=TIMEOUT_S, control_timeout_s=TIMEOUT_S
    ) as engine:
        trainer = Trainer("receive-in-place")
        await asyncio.gather(
            engine.init_group(
                name=trainer.name, host="127.0.0.1", port=trainer.port, rank=1, world_size=2,
                backend="gloo",
            ),
            asyncio.to_thread(trainer.join),
        )  # fmt: skip
        for number, (source, paused) in enumerate(
            [(other_model, True), (model, True), (other_model, False), (model, True)], start=1
        ):
            if paused:
                await engine.pause("retract")
            await push_over(engine, trainer, source, number)
            await engine.resume()
            served = served_tensors(source.state_dict(), QWEN3_VL, has_tied_head=True)
            expected = checksums(source)
            assert {name: (await engine.checksums())[name] for name in served} == expected
        await asyncio.gather(engine.destroy_group(trainer.name), asyncio.to_thread(trainer.leave))


async def push_over(engine: HttpEngine, trainer: Trainer, source, version: int) -> None:
    state = {k: t for k, t in source.state_dict().items() if k != "lm_head.weight"}
    parts = chunks(state, 3)
    await engine.begin_update()
    for number, part in enumerate(parts):
        is_last = number == len(parts) - 1
        await asyncio.gather(
            engine.update(
                bucket_of(part), group=trainer.name, final_version=version if is_last else None,
                flush=True,
            ),
            asyncio.to_thread(trainer.send, [flat(part.values())]),
        )  # fmt: skip
    await engine.end_update()
