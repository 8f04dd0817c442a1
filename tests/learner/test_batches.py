"""The next batch: one rank's feed decides for all."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from common.errors import VisionOpdError
from learner.batches import Batches
from learner.interrupt import Interrupted
from learner.ranks import ALONE, Ranks
from learner.views.inputs import PreparedBatch

BATCH = PreparedBatch(1, ())


class Feed:
    """Gives what it was made with, in turn; an error is raised."""

    def __init__(self, *items: Any) -> None:
        self._items = list(items)

    def next_batch(self, timeout_s: float) -> Any:
        item = self._items.pop(0)
        if isinstance(item, BaseException):
            raise item
        return item


class Pusher:
    looks = 0

    def push_again_if_behind(self) -> None:
        self.looks += 1


class Others(Ranks):
    """Ranks of which another one has found what `most` stands for."""

    most = 0

    def agree(self, number: int) -> int:
        return max(number, self.most)


def beside(most: int) -> Ranks:
    ranks = Others(0, 2, torch.device("cpu"), 1.0)
    object.__setattr__(ranks, "most", most)
    return ranks


def batches(feed: Any, ranks: Ranks = ALONE, timeout_s: float = 60.0) -> Batches:
    return Batches(feed, ranks, Pusher(), timeout_s)  # type: ignore[arg-type]


def test_a_batch_is_given_and_the_end_of_the_data_is_none() -> None:
    taken = batches(Feed(BATCH, None))
    assert taken.next(1) is BATCH and taken.next(2) is None


def test_a_rank_without_data_ends_the_training_of_all() -> None:
    assert batches(Feed(BATCH), beside(1)).next(1) is None


def test_an_interruption_of_one_rank_reaches_all() -> None:
    with pytest.raises(Interrupted, match="another rank"):
        batches(Feed(BATCH), beside(2)).next(1)
    own = Interrupted("the broker says so")
    with pytest.raises(Interrupted, match="the broker says so"):
        batches(Feed(own), replace(ALONE)).next(1)


def test_servers_are_looked_after_while_a_batch_is_awaited_and_the_wait_has_an_end() -> None:
    taken = batches(Feed(TimeoutError(), TimeoutError(), BATCH))
    assert taken.next(1) is BATCH and taken._pusher.looks == 2
    with pytest.raises(VisionOpdError, match=r"no batch for step 7 within 4 s\. Fix:"):
        batches(Feed(TimeoutError()), timeout_s=4.0).next(7)
