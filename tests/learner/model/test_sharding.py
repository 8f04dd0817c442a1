"""Training on several ranks is training on one: gloo ranks against the unsharded model."""

import math
import os
import signal
import time
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.nn.functional import cross_entropy

import common.torchvision_compat  # noqa: F401  (must come before transformers)
from common.errors import ConfigError
from common.weight_dtypes import is_computed_in_float32
from learner.model.lora import adapter_state, iterate_merged, load_adapters
from learner.model.sharding import clip_gradients, copy_into, gather, shard_model, whole_weight
from learner.push.group import PushGroup
from learner.ranks import (
    RankError,
    Ranks,
    _mesh,
    init_ranks,
    rank_failures,
    ranks_of_a_machine,
)
from rollout.embedded.weights import UpdateGroup
from tests.learner.model.support import Case, hidden_states, inputs, load
from tests.learner.rank_processes import FORKS, free_port, run_on_ranks, started_ranks
from tests.tiny_model import FAMILIES, make_tiny_checkpoint
from tests.waiting import LIMIT_S

MICRO_BATCHES = 5  # a step; no multiple of any number of ranks here but 1
STEPS = 3
ALONE = Ranks(0, 1, torch.device("cpu"), 10.0)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory):
    made: dict[tuple[str, bool], str] = {}

    def folder(family: str, is_tied: bool) -> str:
        if (family, is_tied) not in made:
            path = tmp_path_factory.mktemp(family)
            made[family, is_tied] = str(make_tiny_checkpoint(path, 0, is_tied, family))
        return made[family, is_tied]

    return folder


def micro_batch_loss(model: Any, case: Case, number: int, share: float) -> Tensor:
    """`share` times the summed cross-entropy of the next token."""
    hidden_LD = hidden_states(model, case, number)
    head_VD = whole_weight(model.get_output_embeddings().weight, torch.float32)
    targets = inputs(model, case.family, number)["input_ids"][0, 1:]
    return share * cross_entropy(hidden_LD[:-1] @ head_VD.T, targets, reduction="sum")


def train(ranks: Ranks, case: Case, offset: int = 0) -> dict[str, np.ndarray]:
    """Three steps of five micro-batches, dealt out to the ranks; then all weights and figures."""
    model = load(case)
    if ranks.mesh is not None:
        shard_model(model, ranks.mesh, torch.float32)
    trained = [p for p in model.parameters() if p.requires_grad]
    # A large eps: Adam would blow up the rounding of gradients that are 0 but for it (k_proj.bias).
    optimizer = torch.optim.AdamW(trained, lr=1e-2, eps=1e-2, fused=True)
    figures = []
    for step in range(STEPS):
        numbers = [step * MICRO_BATCHES + n for n in range(MICRO_BATCHES)]
        mine = numbers[ranks.rank :: ranks.world_size]
        tokens = sum(inputs(model, case.family, n)["input_ids"].shape[1] - 1 for n in mine)
        (of_all,) = ranks.sum([tokens])
        loss = 0.0
        for turn in range(ranks.agree(len(mine))):
            is_dummy = turn >= len(mine)
            number, share = (numbers[0], 0.0) if is_dummy else (mine[turn], 1 / of_all)
            part = micro_batch_loss(model, case, number, share)
            part.backward()
            loss += part.item()
        norm = clip_gradients(trained, max_norm=0.5)
        optimizer.step()
        optimizer.zero_grad()
        figures.append([*ranks.sum([loss]), norm])
    weights = {name: gather(p).numpy() for name, p in model.named_parameters()}
    return {"figures": np.array(figures), **weights}


def train_all(ranks: Ranks, cases: list[Case]) -> list[dict[str, np.ndarray]]:
    return [train(ranks, case) for case in cases]


def distance(some: dict[str, np.ndarray], others: dict[str, np.ndarray]) -> dict[str, float]:
    return {n: float(np.linalg.norm(some[n] - others[n])) for n in others if n != "figures"}


def compare(
    world_size: int, cases: list[Case], timeout_s: float = 120.0, shard_ranks: int | None = None
) -> None:
    of_ranks = run_on_ranks(
        train_all, world_size, cases, timeout_s=timeout_s, shard_ranks=shard_ranks
    )
    for number, case in enumerate(cases):
        expected = train(ALONE, case)
        start = {name: p.detach().numpy() for name, p in load(case).named_parameters()}
        moved = distance(expected, start)
        assert any("visual" in n for n in moved if moved[n]) != case.freezes_vision
        assert any("language_model.layers" in n for n in moved if moved[n])
        assert expected["figures"][:, 1].max() > 0.5, "clipping has nothing to do"
        for found in of_ranks:
            assert found[number].keys() == expected.keys()
            off = distance(found[number], expected)
            assert math.hypot(*off.values()) <= 1e-5 * math.hypot(*moved.values())
            # Rounding differs: sums of gradients in another order. Measured: up to 4e-6.
            too_far = [n for n in off if off[n] > 1e-5 * np.linalg.norm(expected[n]) + 1e-7]
            assert not too_far
            np.testing.assert_allclose(found[number]["figures"], expected["figures"], rtol=1e-5)
            assert all(np.array_equal(found[number][n], of_ranks[0][number][n]) for n in off)


@pytest.mark.slow
def test_two_ranks_train_as_one_process_does(folders):
    compare(
        2,
        [
            Case(folders("qwen3_vl", True), features_first=True),
            Case(folders("qwen3_5", False), "qwen3_5", is_tied=False, checkpointing=False),
            Case(folders("qwen2_5_vl", True), "qwen2_5_vl", freezes_vision=True),
            Case(folders("qwen3_5", True), "qwen3_5", lora_rank=3),
        ],
    )


@pytest.mark.slow
def test_two_replicas_of_two_shards_train_as_one_process_does(folders):
    cases = [
        Case(folders("qwen3_vl", True), features_first=True),
        Case(folders("qwen3_5", False), "qwen3_5", is_tied=False, checkpointing=False),
        Case(folders("qwen3_5", True), "qwen3_5", lora_rank=3),
    ]
    compare(4, cases, shard_ranks=2)


@pytest.mark.parametrize(
    ("machines", "expected"),
    [
        ([7], 1),
        ([7, 7, 7, 7], 4),
        ([7, 7, 9, 9], 2),
        ([7, 7, 9, 9, 1, 1], 2),
        ([7, 9, 1], 3),  # a machine for each: none of them could hold it
        ([7, 9, 7, 9], 4),  # not neighbours
        ([7, 7, 9], 3),
        ([7, 7, 9, 9, 9], 5),
        ([7, 7, 9, 9, 7, 7], 6),
    ],
)
def test_a_model_is_sharded_within_machines_of_one_size(machines: list[int], expected: int):
    assert ranks_of_a_machine(machines) == expected


def refused(ranks: Ranks) -> str:
    with pytest.raises(ConfigError) as caught:
        _mesh(ranks.device, ranks.world_size, 2)
    return str(caught.value)


def test_replicas_that_do_not_divide_the_ranks_are_refused():
    (told,) = set(run_on_ranks(refused, 3))
    assert told.startswith("learner.shard_ranks = 2: 3 ranks cannot be divided") and "Fix: " in told


def test_a_single_rank_with_a_group_trains_as_one_without(folders):
    compare(1, [Case(folders("qwen3_vl", False), is_tied=False)])


@pytest.mark.slow
@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_every_family_and_every_number_of_ranks(folders, world_size: int):
    plain = [Case(folders(f, tied), f, tied) for f in FAMILIES for tied in (True, False)]
    cases = [
        *plain,
        *(replace(case, checkpointing=False, features_first=True) for case in plain),
        *(replace(case, freezes_vision=True) for case in plain[::2]),
        *(replace(case, lora_rank=3) for case in plain[::2]),
    ]
    compare(world_size, cases, timeout_s=160.0)


# ---- form and precision --------------------------------------------------------------------------
def bfloat16_figures(ranks: Ranks, case: Case) -> dict[str, Any]:
    plain, model, teacher = load(case), load(case), load(case).eval().requires_grad_(False)
    names, repeated = list(model.state_dict()), dict(model.named_parameters(remove_duplicate=False))
    assert ranks.mesh is not None
    for sharded_one in (model, teacher):
        shard_model(sharded_one, ranks.mesh, torch.bfloat16)
    for name, parameter in plain.named_parameters():
        if not is_computed_in_float32(name):
            parameter.data = parameter.data.bfloat16()
    head = model.get_output_embeddings().weight
    outputs = [hidden_states(m, case, 1 + ranks.rank) for m in (plain, model)]
    whole = whole_weight(head, torch.bfloat16)
    with torch.no_grad():  # between the student's forward and backward, as in a step
        of_teacher = hidden_states(teacher, case, 1 + ranks.rank)
    are_given_up = all(isinstance(p, DTensor) for p in model.parameters())
    losses = [(out.float() @ whole.float().T).square().mean() for out in outputs]
    losses[1].backward()
    now = dict(model.named_parameters(remove_duplicate=False))
    return {
        "equal": torch.equal(*outputs) and outputs[1].dtype == torch.bfloat16,
        "teacher": torch.equal(of_teacher, outputs[0]),
        "whole": whole.dtype == torch.bfloat16
        and torch.equal(whole, plain.get_output_embeddings().weight),
        "given up": are_given_up,
        "masters": all(p.dtype == torch.float32 for p in now.values()),
        "gradients": all(
            p.grad is not None and p.grad.dtype == torch.float32 for p in now.values()
        ),
        "names": list(model.state_dict()) == names and now.keys() == repeated.keys(),
        "tied": (head is model.get_input_embeddings().weight) == case.is_tied,
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_computes_as_a_bfloat16_model_and_keeps_float32_masters(folders, family: str):
    case = Case(folders(family, True), family, features_first=True)
    for figures in run_on_ranks(bfloat16_figures, 2, case):
        assert all(figures.values()), figures


def head_gradient(ranks: Ranks) -> np.ndarray:
    """A bfloat16 head of 7 rows, unevenly sharded; the gradient is 1 on rank 0, 1/512 on 1."""
    parameter = sharded(ranks, torch.arange(21.0).reshape(7, 3))
    for _ in range(2):
        (whole_weight(parameter, torch.bfloat16) * 512.0**-ranks.rank).sum().backward()
    assert parameter.grad is not None
    return gather(parameter.grad).numpy()


def sharded(ranks: Ranks, whole: Tensor) -> torch.nn.Parameter:
    assert ranks.mesh is not None
    return torch.nn.Parameter(distribute_tensor(whole, ranks.mesh, [Shard(0)]))


def test_the_heads_gradients_are_summed_in_float32_and_accumulate():
    assert torch.tensor(1 + 1 / 512).bfloat16() == 1
    for found in run_on_ranks(head_gradient, 2):
        np.testing.assert_array_equal(found, np.full((7, 3), 2 * (1 + 1 / 512), dtype=np.float32))


def test_an_unsharded_head_is_only_cast():
    head = torch.nn.Parameter(torch.randn(3, 2))
    whole_weight(head, torch.bfloat16).sum().backward()
    assert head.grad is not None and head.grad.tolist() == [[1, 1]] * 3


def set_and_clip(ranks: Ranks) -> dict[str, Any]:
    values = torch.arange(15.0).reshape(5, 3)
    parameters = [sharded(ranks, torch.zeros(5, 3)), sharded(ranks, torch.zeros(1))]
    copy_into(parameters[0], values)
    copied = gather(parameters[0]).numpy()
    for parameter, gradient in zip(parameters, (values, torch.tensor([3.0])), strict=True):
        parameter.grad = sharded(ranks, gradient).data
    norm = clip_gradients(parameters, 2.0)
    clipped = [gather(p.grad).numpy() for p in parameters]
    parameters[1].grad.to_local().fill_(math.nan)  # the last rank has no row of it
    bad = clip_gradients(parameters, 2.0)
    with pytest.raises(ValueError, match=r"shape \(3, 5\), not \(5, 3\)"):
        copy_into(parameters[0], values.T)
    return {"copied": copied, "norm": norm, "clipped": clipped, "bad": bad}


def test_whole_values_go_into_shards_and_gradients_are_clipped_by_the_norm_over_ranks():
    values = np.arange(15, dtype=np.float32).reshape(5, 3)
    norm = math.sqrt((values**2).sum() + 9)
    for found in run_on_ranks(set_and_clip, 2):
        np.testing.assert_array_equal(found["copied"], values)
        assert found["norm"] == pytest.approx(norm)
        np.testing.assert_allclose(found["clipped"][0], values * 2 / norm, rtol=1e-5)
        np.testing.assert_allclose(found["clipped"][1], [3 * 2 / norm], rtol=1e-5)
        assert math.isnan(found["bad"])


def test_clipping_of_plain_gradients_is_torchs():
    ours, theirs = ([torch.nn.Parameter(torch.zeros(n)) for n in (3, 4)] for _ in range(2))
    for mine, other in zip(ours, theirs, strict=True):
        mine.grad = torch.randn_like(mine)
        other.grad = mine.grad.clone()
    assert clip_gradients(ours, 0.1) == pytest.approx(
        torch.nn.utils.clip_grad_norm_(theirs, 0.1).item()
    )
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, other.grad)
    assert clip_gradients([torch.nn.Parameter(torch.zeros(1))], 1.0) == 0


def refuse(ranks: Ranks, case: Case) -> list[str]:
    assert ranks.mesh is not None
    found = []
    for model, offload in ((load(case), True), (NoTower(), False)):
        with pytest.raises(ConfigError) as caught:
            shard_model(model, ranks.mesh, torch.float32, offload=offload)
        found.append(str(caught.value))
    return found


class NoTower(torch.nn.Module):
    """A text model, in form."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = torch.nn.Embedding(4, 2), torch.nn.Linear(2, 4)
        self.base_model = torch.nn.Module()

    def get_input_embeddings(self) -> torch.nn.Module:
        return self.embedding

    def get_output_embeddings(self) -> torch.nn.Module:
        return self.head


def test_what_cannot_be_sharded_is_refused(folders):
    ((offload, form),) = run_on_ranks(refuse, 1, Case(folders("qwen3_vl", True)))
    assert "learner.offload = true" in offload and "Fix: learner.offload = false" in offload
    assert "lacks language_model.layers" in form and "Fix:" in form


# ---- adapters ------------------------------------------------------------------------------------
def adapters_of_shards(ranks: Ranks, case: Case) -> dict[str, Any]:
    plain, model = load(case), load(case)
    made = torch.Generator().manual_seed(0)
    adapters = {
        name: torch.randn(p.shape, generator=made) for name, p in adapter_state(plain).items()
    }
    load_adapters(plain, adapters)
    assert ranks.mesh is not None
    shard_model(model, ranks.mesh, torch.float32)
    load_adapters(model, adapters)
    expected = dict(iterate_merged(plain))
    found = {name: gather(tensor) for name, tensor in dict(iterate_merged(model)).items()}
    return {
        "names": list(found) == list(expected),
        "values": all(torch.allclose(found[n], expected[n], atol=1e-6) for n in expected),
    }


def test_sharded_adapters_load_and_merge_as_whole_ones_do(folders):
    case = Case(folders("qwen3_5", True), "qwen3_5", lora_rank=3)
    for figures in run_on_ranks(adapters_of_shards, 2, case):
        assert all(figures.values()), figures


# ---- ranks ---------------------------------------------------------------------------------------
def numbers(ranks: Ranks) -> tuple[int, list[float], bool]:
    of_all = ranks.agree(3 + 2 * ranks.rank)
    return of_all, ranks.sum([1, 0.1 * ranks.rank]), ranks.writes


def test_ranks_agree_on_numbers():
    found = run_on_ranks(numbers, 3)
    assert [f[0] for f in found] == [7] * 3
    assert [f[1] for f in found] == [pytest.approx([3, 0.3])] * 3
    assert [f[2] for f in found] == [True, False, False]


def test_without_the_variables_there_is_one_rank_and_no_group(monkeypatch):
    without_ranks(monkeypatch)
    ranks = init_ranks(5.0)
    assert (ranks.rank, ranks.world_size, ranks.mesh, ranks.group) == (0, 1, None, None)
    assert ranks.agree(3) == 3 and ranks.sum([0.5, 2]) == [0.5, 2]
    ranks.close()


def without_ranks(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"MASTER_ADDR": None}, "not MASTER_ADDR"),
        ({"RANK": "2"}, "RANK = 2 with WORLD_SIZE = 2"),
        ({"WORLD_SIZE": "two"}, "'two'"),
    ],
)
def test_an_environment_that_cannot_be_is_refused(monkeypatch, change, says: str):
    good = {
        "RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "1",
    }  # fmt: skip
    without_ranks(monkeypatch, **{k: v for k, v in (good | change).items() if v is not None})
    with pytest.raises(ConfigError, match=rf"{says}.* Fix: "):
        init_ranks(5.0)


def test_rank_0_must_be_where_the_others_look_for_it(monkeypatch):
    without_ranks(
        monkeypatch,
        RANK="0", WORLD_SIZE="2", LOCAL_RANK="0", MASTER_ADDR="198.51.100.1", MASTER_PORT="5571",
    )  # fmt: skip
    with pytest.raises(ConfigError, match=r"MASTER_ADDR = 198.51.100.1 is no address .* Fix: "):
        init_ranks(5.0)


def test_a_rank_that_never_comes_is_not_waited_for_longer_than_the_timeout(monkeypatch):
    port = str(free_port())
    without_ranks(
        monkeypatch,
        RANK="0", WORLD_SIZE="2", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=port,
    )  # fmt: skip
    start = time.monotonic()
    with pytest.raises(RankError, match=rf"rank 0 of 2 did not meet .*127.0.0.1:{port}.* Fix: "):
        init_ranks(1.0)
    assert time.monotonic() - start < LIMIT_S


def lose_a_rank(ranks: Ranks, case: Case, fault: int) -> tuple[str, float]:
    """Rank 1 meets its fault between forward and backward."""
    model = load(case)
    assert ranks.mesh is not None
    shard_model(model, ranks.mesh, torch.float32)
    loss = micro_batch_loss(model, case, 1, 1.0)
    if ranks.rank == 1:
        os.kill(os.getpid(), fault)
    start = time.monotonic()
    with pytest.raises(RankError) as caught, rank_failures(ranks, "the backward pass"):
        loss.backward()
    return str(caught.value), time.monotonic() - start


@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP])
def test_when_a_rank_dies_or_hangs_the_others_fail_in_time(folders, fault: signal.Signals):
    case = Case(folders("qwen3_vl", True))
    timeout_s = 100.0 if fault == signal.SIGKILL else 6.0  # a dead one is noticed before
    with started_ranks(lose_a_rank, 2, case, int(fault), timeout_s=timeout_s) as started:
        pipe = started[0][1]
        assert pipe.poll(LIMIT_S)
        is_good, content = pipe.recv()
    assert is_good, content
    message, seconds = content
    assert "rank 0 of 2 lost another rank in the backward pass" in message and "Fix:" in message
    assert seconds < LIMIT_S


def test_other_errors_pass():
    two = replace(ALONE, world_size=2)
    with pytest.raises(RuntimeError, match="out of memory"), rank_failures(two, "a test"):
        raise RuntimeError("out of memory")


def push_beside(ranks: Ranks, port_for_server: Connection) -> list[float]:
    """The first rank pushes to a server in a group of its own while the ranks add up numbers."""
    sums = ranks.sum([1.0])
    if ranks.writes:
        group = PushGroup("push-1", "127.0.0.1", 2, "gloo", LIMIT_S)
        port_for_server.send(group.port)
        group.join()
    sums += ranks.sum([2.0])
    if ranks.writes:
        group.broadcast(torch.arange(5.0))
    sums += ranks.sum([3.0])
    if ranks.writes:
        group.close()
    return sums + ranks.sum([4.0])


def take_a_push(port: int, pipe: Connection) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    group = UpdateGroup("127.0.0.1", port, 1, 2, "push-1", "gloo", LIMIT_S)
    ((_, tensor),) = group.receive(["w"], [torch.float32], [[5]])
    pipe.send(tensor.tolist())


def test_a_push_group_lives_beside_the_ranks_group():
    ports, port_for_server = FORKS.Pipe(duplex=False)
    pushed, there = FORKS.Pipe(duplex=False)
    with started_ranks(push_beside, 2, port_for_server) as started:
        assert ports.poll(LIMIT_S)
        server = FORKS.Process(target=take_a_push, args=(ports.recv(), there))
        server.start()
        try:
            assert pushed.poll(LIMIT_S) and pushed.recv() == [0, 1, 2, 3, 4]
            for _, pipe in started:
                assert pipe.poll(LIMIT_S) and pipe.recv() == (True, [2, 4, 6, 8])
        finally:
            server.kill()
            server.join(5)
