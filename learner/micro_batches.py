"""Groups of one step -> micro-batches of similar lengths within a token budget."""

from collections.abc import Sequence

from learner.inputs import PreparedGroup
from learner.prefix import row_tokens


def split_into_micro_batches(
    groups: Sequence[PreparedGroup], max_tokens: int, share_prefix: bool
) -> list[list[PreparedGroup]]:
    """Longest first, so that the largest pass comes first and padding is small.

    A micro-batch holds at most `max_tokens` padded student tokens, or a single group that is
    longer. The order depends on nothing but the groups.
    """
    ordered = sorted(groups, key=lambda g: (-_row_length(g, share_prefix), g.group_id))
    batches: list[list[PreparedGroup]] = []
    room = 0
    for group in ordered:
        tokens = _padded_tokens(group, batches, share_prefix)
        if not batches or tokens > room:
            batches.append([])
            tokens, room = _padded_tokens(group, batches, share_prefix), max_tokens
        batches[-1].append(group)
        room -= tokens
    return batches


def _padded_tokens(
    group: PreparedGroup, batches: Sequence[Sequence[PreparedGroup]], share_prefix: bool
) -> int:
    longest = batches[-1][0] if batches and batches[-1] else group
    rows = 1 if share_prefix else len(group.responses)
    return rows * _row_length(longest, share_prefix)


def _row_length(group: PreparedGroup, share_prefix: bool) -> int:
    lengths = [len(response) for response in group.responses]
    prompt = group.student.num_tokens
    if share_prefix:
        return row_tokens(prompt, lengths)
    return row_tokens(prompt, [max(lengths)])
