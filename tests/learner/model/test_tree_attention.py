"""Attention in a row of trees equals a masked softmax, by every kernel, in output and gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from learner.model.batched_attention import BatchedFlash
from learner.model.layout import Layout, plan_layout
from learner.model.ragged_attention import Attention, Plain, RaggedFlash
from learner.model.tree_attention import attend, kernels_for, merged, tree_attention
from tests.learner.ragged_on_cpu import ragged_on_cpu  # noqa: F401

KERNELS = [BatchedFlash(), RaggedFlash(), Plain()]
TREES = {
    "one root": [(9, [])],
    "roots of different lengths": [(40, [3, 5, 2]), (7, [4, 1]), (33, [6]), (40, [34])],
    "some without branches": [(5, []), (3, [2, 2]), (1, []), (70, [])],
    "one token each": [(1, [1]), (1, [1, 1]), (2, [])],
    "no query of more than one token": [(4, []), (3, [1])],
}


def seen_LL(layout: Layout) -> Tensor:
    """bool: the token of a row (dimension 0) sees that of a column."""
    root_L, branch_L = (torch.full((layout.num_tokens,), -1) for _ in range(2))
    branches = 0
    for number, tree in enumerate(layout.trees):
        root_L[tree.start : tree.end] = number
        start = tree.branches_start
        for length in tree.branches:
            branch_L[start : start + length] = branches
            branches, start = branches + 1, start + length
    is_same_tree = root_L[:, None] == root_L
    is_in_root_or_own = (branch_L == -1) | (branch_L[:, None] == branch_L)
    return (is_same_tree & is_in_root_or_own).tril()


def masked_softmax(
    query_LHD: Tensor, key_LKD: Tensor, value_LKD: Tensor, layout: Layout, scale: float
) -> Tensor:
    repeats = query_LHD.shape[1] // key_LKD.shape[1]
    key_LHD, value_LHD = (t.repeat_interleave(repeats, dim=1) for t in (key_LKD, value_LKD))
    scores_HLL = torch.einsum("ahd,bhd->hab", query_LHD, key_LHD) * scale
    scores_HLL = scores_HLL.masked_fill(~seen_LL(layout), -torch.inf)
    return torch.einsum("hab,bhd->ahd", scores_HLL.softmax(-1), value_LHD)


def assert_equals_masked_softmax(
    kernels: Attention,
    sizes: list[tuple[int, list[int]]],
    dtype: torch.dtype,
    tolerance: float,
    heads: tuple[int, int, int] = (4, 2, 16),
) -> None:
    """Output and gradients: the norm of what is wrong, to `tolerance` of theirs, or of 1."""
    torch.manual_seed(0)
    layout = plan_layout(sizes)
    H, K, D = heads
    shapes = [(layout.num_tokens, count, D) for count in (H, K, K)]
    leaves = [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    direction = torch.randn(shapes[0], dtype=dtype)
    output = attend(*leaves, layout, 0.3, kernels)
    wanted = masked_softmax(*exact, layout, 0.3)
    gradients = torch.autograd.grad(output, leaves, direction)
    wanted_gradients = torch.autograd.grad(wanted, exact, direction.double())
    for found, expected in zip((output, *gradients), (wanted, *wanted_gradients), strict=True):
        assert found.dtype == dtype
        assert (found.double() - expected).norm() <= tolerance * expected.norm().clamp(min=1)


@pytest.mark.parametrize("sizes", TREES.values(), ids=TREES)
@pytest.mark.parametrize("kernels", KERNELS, ids=lambda k: type(k).__name__)
@pytest.mark.usefixtures("ragged_on_cpu")
def test_attention_equals_a_masked_softmax(kernels, sizes):
    assert_equals_masked_softmax(kernels, sizes, torch.double, 1e-14)
    assert_equals_masked_softmax(kernels, sizes, torch.float32, 5e-7)


@pytest.mark.parametrize("heads", [(2, 2, 8), (6, 1, 8), (16, 4, 256)])
@pytest.mark.parametrize("kernels", KERNELS, ids=lambda k: type(k).__name__)
@pytest.mark.usefixtures("ragged_on_cpu")
def test_attention_takes_heads_as_they_are(kernels, heads):
    sizes = TREES["roots of different lengths"]
    assert_equals_masked_softmax(kernels, sizes, torch.double, 1e-14, heads)


@given(
    st.lists(
        st.tuples(st.integers(1, 70), st.lists(st.integers(1, 40), max_size=3)),
        min_size=1,
        max_size=4,
    )
)
@settings(max_examples=40)
def test_lots_of_a_cpu_equal_a_masked_softmax_for_any_trees(sizes):
    assert_equals_masked_softmax(BatchedFlash(), sizes, torch.double, 1e-13)


class Calls(TorchDispatchMode):
    """Ragged operators, and the shapes of the keys that they were given."""

    def __init__(self) -> None:
        super().__init__()
        self.of: list[tuple[str, int, int]] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if name.startswith("_flash_attention"):
            query, key = args[:2] if name.endswith("forward") else args[1:3]
            self.of.append((name.removeprefix("_flash_attention_"), len(query), key.shape[1]))
        return function(*args, **(kwargs or {}))


@pytest.mark.usefixtures("ragged_on_cpu")
def test_a_row_takes_three_calls_whatever_its_trees():
    layout = plan_layout([(11, [3, 5]), (7, [4, 1]), (5, [])])
    leaves = [torch.randn(layout.num_tokens, h, 8, requires_grad=True) for h in (4, 2, 2)]
    with Calls() as calls:
        attend(*leaves, layout, None, RaggedFlash()).sum().backward()
    passes = [(count, 2) for count in (23, 13, 13)]
    assert calls.of == [(name, *of) for name in ("forward", "backward") for of in passes]


@pytest.mark.usefixtures("ragged_on_cpu")
def test_attention_without_gradients_keeps_nothing_for_them():
    layout = plan_layout([(6, [2, 3])])
    row = [torch.randn(layout.num_tokens, h, 8) for h in (4, 2, 2)]
    with torch.no_grad():
        output = attend(*row, layout, None, RaggedFlash())
    assert not output.requires_grad and output.isfinite().all()


def test_kernels_behind_torchs_operators_go_with_their_test():
    with pytest.raises(NotImplementedError, match="_flash_attention_forward"):
        attend(*torch.randn(3, 9, 2, 8), plan_layout([(9, [])]), None, RaggedFlash())


def test_the_kernels_are_those_of_the_device_and_the_dtype():
    assert isinstance(kernels_for(torch.empty(1, dtype=torch.bfloat16)), BatchedFlash)
    there = torch.empty(1, device="meta", dtype=torch.bfloat16)
    assert isinstance(kernels_for(there), RaggedFlash)
    assert isinstance(kernels_for(there.float()), Plain)


def test_shapes_of_a_gpu_row_can_be_counted_on_meta():
    layout = plan_layout([(11, [3, 5]), (7, [])]).to(torch.device("meta"))
    leaves = [
        torch.empty(1, h, layout.num_tokens, 256, dtype=torch.bfloat16, device="meta")
        for h in (16, 4, 4)
    ]
    for leaf in leaves:
        leaf.requires_grad_()
    output, _ = tree_attention(None, *leaves, None, layout=layout)
    assert output.shape == (1, 26, 16, 256)
    gradients = torch.autograd.grad(output, leaves, output)
    assert [gradient.shape for gradient in gradients] == [leaf.shape for leaf in leaves]


def test_a_rotation_in_float32_is_taken_to_the_dtype_of_the_values():
    layout = plan_layout([(5, [2])])
    query, key = torch.randn(1, 4, 7, 8), torch.randn(1, 2, 7, 8)
    value = torch.randn(1, 2, 7, 8, dtype=torch.bfloat16)
    output, _ = tree_attention(None, query, key, value, None, layout=layout)
    assert output.dtype == torch.bfloat16


def test_outputs_are_merged_before_they_are_rounded():
    torch.manual_seed(0)
    outputs = torch.randn(2, 3, 4, 8).bfloat16()
    lses = torch.randn(2, 4, 3)
    output, lse = merged((outputs[0], lses[0]), (outputs[1], lses[1]))
    weights = lses.double().softmax(0).transpose(1, 2)[..., None]
    exact = (outputs.double() * weights).sum(0)
    assert output.dtype == torch.bfloat16 and torch.equal(output, exact.bfloat16())
    torch.testing.assert_close(lse, lses.logsumexp(0))
