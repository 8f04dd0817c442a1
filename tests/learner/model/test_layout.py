import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from learner.model.layout import Tree, plan_layout

pytestmark = pytest.mark.smoke

SIZES = st.lists(
    st.tuples(st.integers(1, 6), st.lists(st.integers(0, 4), max_size=4)), min_size=1, max_size=5
)


def test_trees_lie_one_after_the_other():
    layout = plan_layout([(3, [2, 0, 1]), (2, []), (1, [2])])
    assert layout.trees == (Tree(0, 3, (2, 1)), Tree(6, 2), Tree(8, 1, (2,)))
    assert layout.num_tokens == 11
    assert layout.roots.index_SM.tolist() == [[0, 1, 2], [6, 7, 0], [8, 0, 0]]
    assert layout.roots.is_token_SM.tolist() == [
        [True] * 3,
        [True, True, False],
        [True] + [False] * 2,
    ]
    assert layout.branches is not None
    assert layout.branches.index_SM.tolist() == [[3, 4], [5, 0], [9, 10]]
    assert layout.root_of_branch_S.tolist() == [0, 0, 2]


@given(SIZES)
def test_batches_and_back_give_the_row_again(sizes):
    layout = plan_layout(sizes)
    row = torch.arange(1, layout.num_tokens + 1).double()[:, None] * torch.tensor([[1.0, -2.0]])
    roots = layout.roots.of(row)
    branches = None if layout.branches is None else layout.branches.of(row)
    assert torch.equal(layout.joined(roots, branches), row)
    assert not roots[~layout.roots.is_token_SM].any()


@given(SIZES)
def test_every_token_is_in_one_segment(sizes):
    layout = plan_layout(sizes)
    batches = [b for b in (layout.roots, layout.branches) if b is not None]
    places = torch.cat([batch.index_SM[batch.is_token_SM] for batch in batches])
    assert sorted(places.tolist()) == list(range(layout.num_tokens))


def test_sequences_are_the_segments_one_after_the_other():
    layout = plan_layout([(3, [2, 0, 1]), (2, []), (1, [2])])
    roots, branches, by_root = (
        layout.flat_roots,
        layout.flat_branches,
        layout.flat_branches_by_root,
    )
    assert branches is not None and by_root is not None
    assert roots.tokens_T.tolist() == [0, 1, 2, 6, 7, 8] and roots.longest == 3
    assert roots.starts_S.tolist() == [0, 3, 5, 6]
    assert branches.tokens_T.tolist() == by_root.tokens_T.tolist() == [3, 4, 5, 9, 10]
    assert branches.starts_S.tolist() == [0, 2, 3, 5] and branches.longest == 2
    assert by_root.starts_S.tolist() == [0, 3, 3, 5] and by_root.longest == 3
    assert roots.starts_S.dtype == torch.int32 and roots.tokens_T.dtype == torch.int64


def test_sequences_are_cut_into_chunks_that_start_with_them():
    layout = plan_layout([(130, [64, 65, 1])])
    assert layout.flat_branches is not None
    assert layout.flat_roots.chunks_N.tolist() == [[0, 0], [0, 1], [0, 2]]
    assert layout.flat_branches.chunks_N.tolist() == [[0, 0], [1, 0], [1, 1], [2, 0]]
    assert layout.flat_roots.chunks_N.dtype == torch.int32


@given(SIZES)
def test_sequences_and_back_give_the_row_again(sizes):
    layout = plan_layout(sizes)
    row = torch.arange(2 * layout.num_tokens).view(-1, 2)
    roots, branches = layout.flat_roots, layout.flat_branches
    assert (branches is None) == (len(layout.root_of_branch_S) == 0)
    of_branches = None if branches is None else row.index_select(0, branches.tokens_T)
    of_roots = row.index_select(0, roots.tokens_T)
    assert torch.equal(layout.unflattened(of_roots, of_branches), row)
    assert roots.starts_on_host.tolist() == np.cumsum([0, *(t.root for t in layout.trees)]).tolist()


def test_a_layout_moves_but_for_what_the_host_plans_by():
    there = plan_layout([(3, [2])]).to(torch.device("meta"))
    assert there.flat_branches is not None and there.flat_branches_by_root is not None
    for sequences in (there.flat_roots, there.flat_branches, there.flat_branches_by_root):
        assert sequences.tokens_T.is_meta and sequences.starts_S.is_meta
        assert sequences.chunks_N.is_meta
        assert sequences.starts_on_host.device.type == "cpu"
    assert there.place_in_flat_L.is_meta
