"""flash-linear-attention's real kernels, by Triton's interpreter, are held to the plain ones."""

import importlib
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import common.torchvision_compat  # noqa: F401  (must come before transformers)
from learner.checking.findings import Finding
from learner.checking.fused_forms import check_fused_forms
from learner.checking.sizes import SMALL
from learner.model import delta_net, fla_kernels, ragged_delta_net
from learner.model.fused import FORMS, fuse
from learner.model.layout import plan_layout
from tests.learner.interpreter import interpreting
from tests.tiny_model import FAMILIES

pytestmark = [pytest.mark.kernels, pytest.mark.timeout(600)]
Sizes = Sequence[tuple[int, Sequence[int]]]
# Sums over tokens of parts that cancel, in float32. From float64 fla's are up to 1.7e-5 away, the
# reference's up to 1.3e-5, and up to 1.2e-5 from each other (`in_proj_a`: 2.7, 2.5 and 2.6e-6).
OF_DECAYS = {"A_log": 3e-5, "dt_bias": 3e-5, "in_proj_a.weight": 5e-6}


@pytest.fixture(scope="module")
def interpreted() -> Iterator[Callable[..., Any]]:
    yield from interpreting()


def by_kernels_and_plain(compute: Callable[[], dict[str, Tensor]]) -> dict[str, float]:
    """How far each result of the kernels is from the plain one, relative to its norm."""
    probe = torch.zeros(1)
    assert fla_kernels.run_on(probe)
    found = compute()
    usual, fla_kernels.run_on = fla_kernels.run_on, lambda tensor: False
    try:
        expected = compute()
    finally:
        fla_kernels.run_on = usual
    assert found.keys() == expected.keys()
    return {n: ((found[n] - e).norm() / e.norm()).item() for n, e in expected.items()}


def small_net() -> Any:
    """Two value heads on one key head, whose decays are as in a trained model."""
    from transformers.models.qwen3_5.configuration_qwen3_5 import Qwen3_5TextConfig
    from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5GatedDeltaNet

    torch.manual_seed(0)
    config = Qwen3_5TextConfig(
        hidden_size=32,
        linear_num_key_heads=1,
        linear_num_value_heads=2,
        linear_key_head_dim=16,
        linear_value_head_dim=16,
    )
    model = torch.nn.ModuleDict({"net": Qwen3_5GatedDeltaNet(config, 0)})
    delta_net.follow_layouts(model)
    steps_H = torch.tensor([0.01, 0.05])
    model["net"].dt_bias.data = steps_H.expm1().log()  # the inverse of softplus
    return model["net"]


def rows_of_trees(sizes: Sizes) -> dict[str, float]:
    net, layout = small_net(), plan_layout(sizes)
    hidden_1LD = torch.randn(1, layout.num_tokens, 32, requires_grad=True)
    direction_1LD = torch.randn(1, layout.num_tokens, 32)

    def compute() -> dict[str, Tensor]:
        net.zero_grad()
        hidden_1LD.grad = None
        output_1LD = net(hidden_1LD, layout=layout)
        (output_1LD * direction_1LD).sum().backward()
        gradients = {name: p.grad for name, p in net.named_parameters()}
        return {"output": output_1LD.detach(), "hidden": hidden_1LD.grad, **gradients}

    return by_kernels_and_plain(compute)


@pytest.mark.parametrize(
    "sizes",
    [
        [(70, [1, 2, 3, 63, 64, 65])],
        [(2, [1, 4]), (130, [66, 2]), (5, []), (1, [1])],
        [(3, []), (65, [])],
    ],
)
def test_the_delta_net_of_a_row_of_trees_is_the_references(interpreted, sizes: Sizes):
    errors = interpreted(rows_of_trees, sizes)
    assert {"output", "hidden", "A_log", "conv1d.weight", "norm.weight"} <= errors.keys()
    assert max(errors.pop("output"), errors.pop("hidden")) < 1e-6, errors
    for name, error in errors.items():  # of parameters: sums over all tokens
        assert error < OF_DECAYS.get(name, 2e-6), errors


def given_ends(lengths: list[int]) -> dict[str, float]:
    """Errors of branches that go on from given taps and states, mostly of gradients."""
    net, layout = small_net(), plan_layout([(1, lengths)])
    num, length = len(lengths), sum(lengths)
    taps_SCW = torch.randn(num, net.conv_dim, net.conv_kernel_size, requires_grad=True)
    state_SHDD = torch.randn(num, 2, 16, 16, requires_grad=True)
    mixed_LC = torch.randn(1 + length, net.conv_dim)  # the root, whose ends are not taken, first
    decay_LH, beta_LH = -torch.rand(1 + length, 2) / 5, torch.rand(1 + length, 2)
    direction_THD, of_state = torch.randn(length, 2, 16), torch.randn(num, 2, 16, 16)

    def compute() -> dict[str, Tensor]:
        taps_SCW.grad = state_SHDD.grad = None
        if fla_kernels.run_on(mixed_LC):
            begin = ragged_delta_net.Ends(taps_SCW, state_SHDD)
            tokens = (tensor[1:] for tensor in (mixed_LC, decay_LH, beta_LH))
            out_THD, ends = ragged_delta_net.sequences(net, layout.flat_branches, begin, *tokens)
            state = ends.state_SHDD
        else:
            past_SKC = taps_SCW[:, :, 1:].transpose(1, 2)
            out_SMHD, state = delta_net._segments(
                net, layout.branches, past_SKC, state_SHDD, mixed_LC, decay_LH, beta_LH
            )
            out_THD = out_SMHD[layout.branches.is_token_SM]
        ((out_THD * direction_THD).sum() + (state * of_state).sum()).backward()
        return {
            "output": out_THD.detach(),
            "last state": state.detach(),
            "taps": taps_SCW.grad,
            "state": state_SHDD.grad,
        }

    return by_kernels_and_plain(compute)


def test_branches_go_on_from_what_their_roots_left_and_give_it_gradients(interpreted):
    errors = interpreted(given_ends, [1, 2, 3, 63, 64, 65])
    assert max(errors.values()) < 1e-6, errors


def waiting_calls(sizes: Sizes) -> list[str]:
    """What the host must wait for, in both passes of a delta net."""
    net, layout = small_net(), plan_layout(sizes)
    hidden_1LD = torch.randn(1, layout.num_tokens, 32)
    with Calls() as calls:
        net(hidden_1LD, layout=layout).sum().backward()
    assert "index_select" in calls.names
    return sorted(calls.names & {"_local_scalar_dense", "nonzero", "repeat_interleave", "equal"})


class Calls(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def test_the_host_reads_nothing_back_in_a_delta_net(interpreted):
    assert interpreted(waiting_calls, [(5, [2, 1])]) == []


# ---- norms and gates -----------------------------------------------------------------------------
def fused_module(name: str, weight_dtype: torch.dtype) -> dict[str, float]:
    torch.manual_seed(0)
    module = made(name).to(weight_dtype)
    for parameter in module.parameters():
        parameter.data.normal_(0.0, 0.2)
    model = torch.nn.ModuleDict({"one": module})
    fuse(model)
    width = width_of(name)
    tensors = [torch.randn(5, 7, width, requires_grad=True) for _ in range(2)]
    inputs = tensors if "Gated" in name else tensors[:1]
    direction = torch.randn(5, 7, width)

    def compute() -> dict[str, Tensor]:
        model.zero_grad()
        for tensor in inputs:
            tensor.grad = None
        output = model["one"](*inputs)
        (output * direction).sum().backward()
        gradients = {n: p.grad.float() for n, p in model.named_parameters()}
        of_inputs = {f"input {n}": tensor.grad for n, tensor in enumerate(inputs)}
        return {"output": output.detach(), **of_inputs, **gradients}

    return by_kernels_and_plain(compute)


def made(name: str) -> torch.nn.Module:
    files = [
        importlib.import_module(f"transformers.models.{name}.modeling_{name}") for name in FAMILIES
    ]
    kind = next(getattr(file, name) for file in files if hasattr(file, name))
    width = width_of(name)
    if "Norm" in name:
        return kind(width, eps=1e-5)
    config = SimpleNamespace(
        hidden_size=width, intermediate_size=24, out_hidden_size=24, hidden_act="silu"
    )
    return kind(config, 24) if name == "Qwen3_5MLP" else kind(config)


def width_of(name: str) -> int:
    """fla has other kernels for wide rows."""
    return 1024 if name.startswith("Qwen3VL") else 48


@pytest.mark.parametrize("name", sorted(FORMS))
def test_a_fused_module_is_the_plain_one(interpreted, name: str):
    errors = interpreted(fused_module, name, torch.float32)
    assert max(errors.values()) < 1e-6, errors


@pytest.mark.parametrize("name", sorted(name for name in FORMS if "Norm" in name))
def test_a_fused_norm_takes_a_weight_of_bfloat16_for_what_it_is(interpreted, name: str):
    """1 + weight in bfloat16 would be off by up to 2^-8."""
    errors = interpreted(fused_module, name, torch.bfloat16)
    assert max(errors["output"], errors["input 0"]) < 1e-6, errors


def checked_forms() -> list[Finding]:
    return list(check_fused_forms(SMALL, torch.device("cpu"), torch.float32))


def test_the_check_of_a_gpu_holds_the_real_kernels(interpreted):
    found = interpreted(checked_forms)
    assert len(found) == 4 and all(finding.outcome == "ok" for finding in found), found
