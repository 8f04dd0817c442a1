"""Tensors as they are at one instant: copied at once, when they are read, or before they change."""

import pytest
import torch
from torch import Tensor

from learner.checkpoint.copy_on_write import CopyOnWrite
from learner.checkpoint.tensor_files import WHOLE, Form, Part


def live_and_held(part: Part = WHOLE) -> tuple[Tensor, CopyOnWrite]:
    live, held = torch.arange(10.0).reshape(5, 2), CopyOnWrite(part)
    held.add("x", live)
    return live, held


def test_nothing_is_copied_before_it_is_read_or_changes() -> None:
    live, held = live_and_held()
    live += 1
    assert torch.equal(held.read("x"), live)


def test_what_was_secured_does_not_change() -> None:
    live, held = live_and_held()
    before = live.clone()
    held.secure()
    live += 1
    held.secure()
    assert torch.equal(held.read("x"), before)
    assert held.read("x").data_ptr() == held.read("x").data_ptr()  # no copy of a copy


def test_what_was_read_does_not_change() -> None:
    live, held = live_and_held()
    before, found = live.clone(), held.read("x")
    live += 1
    assert torch.equal(found, before)


@pytest.mark.parametrize(
    ("number", "rows"), [(0, slice(0, 2)), (1, slice(2, 4)), (2, slice(4, 5)), (3, slice(5, 5))]
)
def test_of_a_whole_tensor_a_part_holds_its_rows(number: int, rows: slice) -> None:
    live, held = live_and_held(Part(number, 4))
    assert torch.equal(held.read("x"), live[rows])
    held.secure()
    assert torch.equal(held.read("x"), live[rows])


def test_it_is_cast_as_it_is_copied() -> None:
    held = CopyOnWrite(WHOLE)
    form = held.add("x", torch.tensor([1.5], dtype=torch.bfloat16), torch.float32)
    assert form == Form(torch.float32, (1,))
    assert torch.equal(held.read("x"), torch.tensor([1.5]))


def test_after_a_write_nothing_is_held() -> None:
    _, held = live_and_held()
    held.release()
    held.secure()
    with pytest.raises(KeyError):
        held.read("x")
