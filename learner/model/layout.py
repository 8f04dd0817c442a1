"""Where the sequences of one packed row lie: pure index arithmetic.

    tokens     p0 p1 p2 p3 | a1 a2 | b1 b2 b3 || q0 q1 | c1 ...
    segment    root 0      | its branches     || root 1 | its branch

A *root* is a prompt (or, without sharing, a prompt with its response); *branches* continue where
their root ends. A tree is one root with its branches. Nothing else in a row sees each other, and
nothing is padded, but for the kernels that want a batch: `Batch` is the index of one. Kernels of
ragged tensors take `Sequences`: roots one after the other, and branches likewise.
Axes: L tokens of the row, S segments, M tokens of the longest segment, T tokens of some segments
one after the other.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from learner.model.transfer import on_device

CHUNK = 64  # tokens of a sequence that a kernel of linear attention takes at once


@dataclass(frozen=True)
class Tree:
    """One root, then its branches, side by side in the row."""

    start: int
    root: int  # tokens
    branches: tuple[int, ...] = ()  # tokens of each branch, at least 1

    @property
    def branches_start(self) -> int:
        return self.start + self.root

    @property
    def end(self) -> int:
        return self.branches_start + sum(self.branches)


@dataclass(frozen=True)
class Batch:
    """Segments of a row as rows of a batch, filled up on the right."""

    index_SM: Tensor  # int64: place in the row; 0 where there is no token
    is_token_SM: Tensor  # bool

    def of(self, row_L: Tensor) -> Tensor:
        """[L, ...] -> [S, M, ...]; zeros where there is no token."""
        taken = row_L.index_select(0, self.index_SM.flatten())
        taken = taken.view(*self.index_SM.shape, *row_L.shape[1:])
        return taken * self.is_token_SM.view(*self.index_SM.shape, *[1] * (row_L.ndim - 1))


@dataclass(frozen=True, eq=False)  # known by identity: what a kernel plans by it can be kept
class Sequences:
    """Segments of a row one after the other, as the kernels for ragged tensors take them.

    `row.index_select(0, tokens_T)` puts a row's tokens, [L, ...], in this order: [T, ...].
    """

    tokens_T: Tensor  # int64: place in the row
    starts_S: Tensor  # int32 [S + 1]: where each sequence starts in T, then T itself
    starts_on_host: Tensor  # starts_S on the CPU: kernels plan by them without a synchronisation
    longest: int  # tokens
    chunks_N: Tensor  # int32 [N, 2]: of each chunk, its sequence, and its number in the sequence


@dataclass(frozen=True)
class Layout:
    """Trees of one row, and its segments: as two batches, and one after the other."""

    trees: tuple[Tree, ...]
    roots: Batch
    branches: Batch | None  # of all trees, in their order
    root_of_branch_S: Tensor  # int64, into the roots
    flat_roots: Sequences
    flat_branches: Sequences | None  # of all trees, in their order
    flat_branches_by_root: Sequences | None  # the same tokens; a tree's branches are one sequence
    place_in_flat_L: Tensor  # int64: of each token in cat(flat roots, flat branches)
    place_L: Tensor  # int64: of each token in cat(roots.flatten(0, 1), branches.flatten(0, 1))
    asked_M: Tensor | None = None  # int64: the tokens whose last hidden states are asked for

    @property
    def num_tokens(self) -> int:
        return self.trees[-1].end

    def joined(self, roots_SM: Tensor, branches_SM: Tensor | None) -> Tensor:
        """The inverse of the two batches: [S, M, ...] each -> [L, ...]."""
        parts = [part.flatten(0, 1) for part in (roots_SM, branches_SM) if part is not None]
        return torch.cat(parts).index_select(0, self.place_L)

    def unflattened(self, roots: Tensor, branches: Tensor | None) -> Tensor:
        """The inverse of `flat_roots` and `flat_branches`: [T, ...] each -> [L, ...]."""
        if branches is None:
            return roots  # as they lie in the row
        return torch.cat([roots, branches]).index_select(0, self.place_in_flat_L)

    def to(self, device: torch.device) -> "Layout":
        """All but what is on the host for good."""
        return on_device(self, device)


def plan_layout(sizes: Sequence[tuple[int, Sequence[int]]]) -> Layout:
    """Lay trees out one after the other.

    Args:
        sizes: tokens of each root, and of each of its branches; empty branches are left out.
    """
    trees: list[Tree] = []
    start = 0
    for root, lengths in sizes:
        trees.append(Tree(start, root, tuple(n for n in lengths if n)))
        start = trees[-1].end
    roots = _batch([tree.start for tree in trees], [tree.root for tree in trees])
    parents = np.repeat(np.arange(len(trees)), [len(tree.branches) for tree in trees])
    branches = _batch(*_branch_segments(trees)) if len(parents) else None
    flat_roots, flat_branches, by_root = _flat(trees)
    return Layout(
        tuple(trees),
        roots,
        branches,
        torch.from_numpy(parents),
        flat_roots,
        flat_branches,
        by_root,
        _place_in_flat(flat_roots, flat_branches),
        _places(start, roots, branches),
    )


def _flat(trees: Sequence[Tree]) -> tuple[Sequences, Sequences | None, Sequences | None]:
    """Roots, branches, and the branches of each tree as one sequence."""
    roots = _sequences([tree.start for tree in trees], [tree.root for tree in trees])
    starts, lengths = _branch_segments(trees)
    if not starts:
        return roots, None, None
    rooms = [tree.end - tree.branches_start for tree in trees]
    by_root = _sequences([tree.branches_start for tree in trees], rooms)
    return roots, _sequences(starts, lengths), by_root


def _sequences(starts: Sequence[int], lengths: Sequence[int]) -> Sequences:
    ends = np.cumsum(lengths)
    before = ends - lengths
    tokens = np.arange(ends[-1]) + np.repeat(starts - before, lengths)
    starts_S = torch.from_numpy(np.concatenate([[0], ends]).astype(np.int32))
    chunks_N = torch.from_numpy(_chunks(lengths))
    return Sequences(torch.from_numpy(tokens), starts_S, starts_S, max(lengths), chunks_N)


def _chunks(lengths: Sequence[int]) -> np.ndarray:
    counts = -(-np.asarray(lengths) // CHUNK)
    numbers = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.stack([np.repeat(np.arange(len(counts)), counts), numbers], axis=1).astype(np.int32)


def _place_in_flat(roots: Sequences, branches: Sequences | None) -> Tensor:
    order_L = torch.cat([part.tokens_T for part in (roots, branches) if part is not None])
    return torch.empty_like(order_L).index_copy_(0, order_L, torch.arange(len(order_L)))


def _branch_segments(trees: Sequence[Tree]) -> tuple[list[int], list[int]]:
    starts, lengths = [], []
    for tree in trees:
        start = tree.branches_start
        for length in tree.branches:
            starts.append(start)
            lengths.append(length)
            start += length
    return starts, lengths


def _batch(starts: Sequence[int], lengths: Sequence[int]) -> Batch:
    place_1M = torch.arange(max(lengths))[None]
    is_token_SM = place_1M < torch.tensor(lengths)[:, None]
    return Batch((torch.tensor(starts)[:, None] + place_1M) * is_token_SM, is_token_SM)


def _places(num_tokens: int, *batches: Batch | None) -> Tensor:
    place_L = torch.zeros(num_tokens, dtype=torch.int64)
    offset = 0
    for batch in batches:
        if batch is not None:
            inside = batch.is_token_SM.flatten().nonzero()[:, 0]
            place_L[batch.index_SM[batch.is_token_SM]] = offset + inside
            offset += batch.index_SM.numel()
    return place_L
