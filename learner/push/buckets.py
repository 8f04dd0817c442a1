"""Weights as byte buckets: what one push sends, and a snapshot of it that fills beside the step.

Floating tensors are sent in one dtype, but for those that servers hold in float32 whatever theirs
is. A bucket has its widest elements first, so that each tensor begins at a multiple of its
element's size: SGLang 0.5.23 refuses a bucket where one does not.
"""

import math
import threading
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from common.config import WeightsSection
from common.types import WeightBucket
from common.weight_dtypes import is_served_in_float32
from learner.model.sharding import gather
from learner.push.streams import MakeStream, new_stream
from learner.ranks import ALONE, Ranks

MIB = 2**20


class Snapshot:
    """Copies of all weights as they are between two optimizer steps, bucket by bucket.

    A thread fills it (`gather`) while another one sends what is there already (`ready`). The room
    is one copy of the weights in the dtype that is sent: a push can then be tried again after the
    weights have moved on.

    Weights that are shared among ranks are copied in `begin` instead, by all ranks together: a
    collective in a thread of its own could meet one of the step's.

    Args:
        weights: live tensors by name; they must not change from `begin` to the end of `gather`.
        dtype: that floating tensors are sent as, but for `is_served_in_float32`.
        ranks: those that do not write only take part in bringing shards together.
        make_stream: for copies of weights that are not shared, and for `sending`.
        is_on_host: the room is main memory, pinned where the weights are on a GPU.

    Attributes:
        sending: the stream on which the copies are read; what runs there sees them whole.
    """

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        dtype: torch.dtype,
        bucket_mib: float,
        ranks: Ranks = ALONE,
        make_stream: MakeStream = new_stream,
        is_on_host: bool = False,
    ) -> None:
        self._weights = weights
        self._dtype = dtype
        self._ranks = ranks
        self.buckets = plan_buckets(weights, dtype, bucket_mib)
        self._is_sharded = any(isinstance(tensor, DTensor) for tensor in weights.values())
        source = gather(next(iter(weights.values()))).device
        self.device = torch.device("cpu") if is_on_host else source
        is_pinned = is_on_host and source.type == "cuda"
        self._contents = [
            _room(bucket.num_bytes if ranks.writes else 0, self.device, is_pinned)
            for bucket in self.buckets
        ]
        # Two: a copy must not queue behind a bucket that a slow server takes its time over.
        self._copying, self.sending = make_stream(source), make_stream(source)
        self._num_ready = 0
        self._error: BaseException | None = None
        self._changed = threading.Condition()

    def begin(self) -> None:
        """From now on the weights are to be copied anew. In the thread that trains."""
        self._num_ready, self._error = 0, None
        if self._is_sharded:
            for content, bucket in zip(self._contents, self.buckets, strict=True):
                self._gather_shards(content, bucket)
        for stream in (self._copying, self.sending):  # nothing else waits for the copies
            stream.follow()

    def gather(self) -> None:
        """Copy every bucket; each is ready as soon as it is copied."""
        try:
            for number, bucket in enumerate(self.buckets):
                if not self._is_sharded:
                    with self._copying.entered():
                        fill(self._contents[number], bucket, self._weights, self._dtype)
                    self._copying.synchronize()
                self._note(number + 1, None)
        except BaseException as error:
            self._note(self._num_ready, error)
            raise

    def ready(self) -> Iterator[Tensor]:
        """The buckets' bytes in order, uint8 [num_bytes] each, as they become ready."""
        for number, content in enumerate(self._contents):
            with self._changed:
                self._changed.wait_for(lambda n=number: self._num_ready > n or self._error)  # type: ignore[misc]
                if self._error is not None:
                    raise self._error
            yield content

    def tensors(self) -> dict[str, Tensor]:
        """The copies by name, in the dtypes that are sent; waits until they are complete."""
        found: dict[str, Tensor] = {}
        for bucket, content in zip(self.buckets, self.ready(), strict=True):
            kinds = [getattr(torch, dtype) for dtype in bucket.dtypes]
            # Not asked of the weights: a merged one would be made, with the other ranks' help.
            pairs = zip(bucket.shapes, kinds, strict=True)
            parts = torch.split(content, [math.prod(s) * kind.itemsize for s, kind in pairs])
            found |= {
                name: part.view(kind).view(shape)
                for name, part, kind, shape in zip(
                    bucket.names, parts, kinds, bucket.shapes, strict=True
                )
            }
        return found

    def _gather_shards(self, content: Tensor, bucket: WeightBucket) -> None:
        """Bring one bucket together; all ranks call it, bucket by bucket."""
        whole = {name: self._gathered(name) for name in bucket.names}
        if self._ranks.writes:
            fill(content, bucket, whole, self._dtype)

    @torch.no_grad()
    def _gathered(self, name: str) -> Tensor:
        """The whole tensor. It is cast first: bfloat16 costs the ranks half the bytes."""
        tensor = self._weights[name]
        return gather(tensor.to(_sent_dtype(name, tensor, self._dtype)))

    def _note(self, num_ready: int, error: BaseException | None) -> None:
        with self._changed:
            self._num_ready, self._error = num_ready, error
            self._changed.notify_all()


def snapshot_of(
    config: WeightsSection, weights: Mapping[str, Tensor], ranks: Ranks = ALONE
) -> Snapshot:
    """Room for what one push sends.

    In main memory if it goes to files anyway: a GPU that is shared has none to spare.
    """
    return Snapshot(
        weights,
        getattr(torch, config.dtype),
        config.bucket_mib,
        ranks,
        is_on_host=config.transport == "files",
    )


def _room(num_bytes: int, device: torch.device, is_pinned: bool) -> Tensor:
    return torch.empty(num_bytes, dtype=torch.uint8, device=device, pin_memory=is_pinned)


def plan_buckets(
    weights: Mapping[str, Tensor], dtype: torch.dtype, bucket_mib: float
) -> tuple[WeightBucket, ...]:
    """The weights in their order, cut into buckets of at most `bucket_mib`.

    A tensor larger than that gets a bucket of its own. Within a bucket wide elements come first.

    Args:
        dtype: that floating tensors are sent as, but for `is_served_in_float32`.
    """
    buckets: list[WeightBucket] = []
    names: list[str] = []
    room = 0
    for name, tensor in weights.items():
        num_bytes = _num_bytes(name, tensor, dtype)
        if names and num_bytes > room:
            buckets.append(_bucket(names, weights, dtype))
            names = []
        if not names:
            room = int(bucket_mib * MIB)
        names.append(name)
        room -= num_bytes
    return (*buckets, _bucket(names, weights, dtype))


@torch.no_grad()
def fill(
    content: Tensor, bucket: WeightBucket, weights: Mapping[str, Tensor], dtype: torch.dtype
) -> None:
    """Copy the weights of one bucket, as they are now, into its bytes (uint8 [num_bytes])."""
    offset = 0
    for name in bucket.names:
        tensor = weights[name]
        part = content[offset : offset + _num_bytes(name, tensor, dtype)]
        part.view(_sent_dtype(name, tensor, dtype)).view(tensor.shape).copy_(tensor)
        offset += len(part)


def _bucket(names: list[str], weights: Mapping[str, Tensor], dtype: torch.dtype) -> WeightBucket:
    tensors = {name: weights[name] for name in names}  # each once: some are made when asked for
    kinds = {name: _sent_dtype(name, tensor, dtype) for name, tensor in tensors.items()}
    ordered = sorted(names, key=lambda name: -kinds[name].itemsize)
    return WeightBucket(
        names=tuple(ordered),
        dtypes=tuple(str(kinds[name]).removeprefix("torch.") for name in ordered),
        shapes=tuple(tuple(tensors[name].shape) for name in ordered),
        num_bytes=sum(_num_bytes(name, tensors[name], dtype) for name in ordered),
    )


def _sent_dtype(name: str, tensor: Tensor, dtype: torch.dtype) -> torch.dtype:
    if not tensor.is_floating_point():
        return tensor.dtype
    return torch.float32 if is_served_in_float32(name) else dtype


def _num_bytes(name: str, tensor: Tensor, dtype: torch.dtype) -> int:
    return tensor.numel() * _sent_dtype(name, tensor, dtype).itemsize
