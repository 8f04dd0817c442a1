"""Groups of one step -> micro-batches within a token budget.

Student and teacher have budgets of their own: the student keeps activations for its backward pass,
and its prompts are long where the teacher's are short.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch

from common.errors import VisionOpdError
from learner.model.packing import packed_tokens
from learner.views.inputs import PreparedGroup, PromptView

Item = TypeVar("Item")


def micro_batches(
    groups: Sequence[PreparedGroup],
    prompt_of: Callable[[PreparedGroup], PromptView],
    max_tokens: int,
    share_prefix: bool,
) -> list[list[PreparedGroup]]:
    """Micro-batches of at most `max_tokens` tokens of one side, or of one group that is larger."""

    def tokens(group: PreparedGroup) -> int:
        lengths = [len(response) for response in group.responses]
        return packed_tokens(prompt_of(group).num_tokens, lengths, share_prefix)

    return fill_bins(groups, tokens, max_tokens)


@contextmanager
def named_if_too_large(max_tokens: int) -> Iterator[None]:
    """Report a GPU without room for a micro-batch by the key to change; put it around a step.

    Raises:
        VisionOpdError: in place of torch's error.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise VisionOpdError(
            f"learner.micro_batch_tokens = {max_tokens}: the GPU has no room for a micro-batch "
            f"({str(error).splitlines()[0]}). Fix: lower it, raise model.gradient_checkpointing, "
            "or use more learner.ranks"
        ) from error


def fill_bins(items: Sequence[Item], size_of: Callable[[Item], int], room: int) -> list[list[Item]]:
    """First-fit decreasing: each item into the first bin that has room for it.

    The largest come first, so that the pass that needs most memory is the first. At most 11/9 of
    the best possible number of bins, and one (Dosa 2007). The order depends on nothing but the
    items: equal ones keep theirs.
    """
    bins: list[list[Item]] = []
    rooms: list[int] = []
    for item in sorted(items, key=size_of, reverse=True):
        size = size_of(item)
        number = next((n for n, left in enumerate(rooms) if left >= size), None)
        if number is None:
            number = len(bins)
            bins.append([])
            rooms.append(room)
        bins[number].append(item)
        rooms[number] -= size
    return bins
