"""The records that travel between processes: frozen, validated on arrival, free of torch.

Words: a *sample* is one dataset row; a *group* is the n trajectories of one sample; a *trajectory*
is one response. A *policy version* counts the optimizer steps behind a set of weights.
"""

from enum import StrEnum
from typing import Annotated, Any, Literal, NewType, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, PlainValidator, model_validator

PolicyVersion = NewType("PolicyVersion", int)
Int32Array = Annotated[np.ndarray, PlainValidator(lambda value: _vector(value, np.int32))]
Float32Array = Annotated[np.ndarray, PlainValidator(lambda value: _vector(value, np.float32))]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
# Numbers end where their columns on disk do, so that none that was let in fails to be written.
Count = Annotated[int, Field(ge=0, lt=2**31)]  # int32: versions, steps, tokens, pixels
PositiveCount = Annotated[int, Field(gt=0, lt=2**31)]
LongCount = Annotated[int, Field(ge=0, lt=2**63)]  # int64: attempts, serials, bytes, lives
# Names are shown in terminals and logs: no control characters, no line ends of any script.
Identifier = Annotated[
    str,
    Field(
        min_length=1,
        max_length=200,
        pattern=r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]+$",
    ),
]
MemberId = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[A-Za-z0-9_./:@-]+$")]
FilePath = Annotated[str, Field(min_length=1, max_length=4096, pattern=r"^[^\x00]+$")]
FileName = Annotated[str, Field(max_length=255, pattern=r"^[^/\\\x00]*[^/\\\x00.][^/\\\x00]*$")]
Host = Annotated[str, Field(min_length=1, max_length=255)]


def _vector(value: Any, dtype: Any) -> np.ndarray:
    if not isinstance(value, np.ndarray) or value.ndim != 1 or value.dtype != dtype:
        raise ValueError(f"expected a {np.dtype(dtype).name} vector")
    return value


class Record(BaseModel):
    """Base of every record: immutable, no unknown field, no silent conversion."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, arbitrary_types_allowed=True
    )


class Box(Record):
    """Pixel rectangle in the full image; x2 and y2 are exclusive."""

    x1: Count
    y1: Count
    x2: Count
    y2: Count

    @model_validator(mode="after")
    def _is_not_empty(self) -> Self:
        if self.x2 <= self.x1 or self.y2 <= self.y1:
            raise ValueError("box is empty: need x1 < x2 and y1 < y2")
        return self


class ImageRef(Record):
    """An image by content. The bytes stay in the dataset folder; the wire carries this."""

    sha256: Sha256
    path: FilePath  # relative to the dataset folder
    width: PositiveCount  # pixels
    height: PositiveCount  # pixels


class Sample(Record):
    """One dataset row, without its answer: training never sees a label."""

    sample_id: Identifier
    problem: str  # text with one "<image>" placeholder
    image: ImageRef  # the full picture
    box: Box | None  # the evidence, in the full picture
    crop: ImageRef | None  # a ready picture of it; None means that `box` is cut out of `image`


class FinishReason(StrEnum):
    STOP = "stop"  # the model ended its answer
    LENGTH = "length"  # the response budget ended it
    ABORT = "abort"  # the engine gave up; never trained on


class GroupLease(Record):
    """Permission to generate the group of one sample, once."""

    group_id: Identifier  # "<epoch>/<position>": the same in every attempt and every run
    attempt: LongCount  # fences late submits of earlier attempts
    sample: Sample
    num_trajectories: PositiveCount
    sampling_seed: int = Field(ge=0, lt=2**31)  # depends on run seed and group, not on the attempt
    lease_s: float = Field(gt=0, allow_inf_nan=False)  # seconds from now until it lapses
    alone: bool = False  # its server must generate nothing else meanwhile: it may be what kills


class ShownView(Record):
    """What the engine was shown of a sample, for the learner to know that it trains on the same."""

    name: Identifier  # the view (common.views)
    seed: Count  # what was drawn depends on it; 0 where nothing is drawn
    note: str = Field(max_length=200, pattern=r"^[ -~]*$")  # what was drawn, for people
    sha256: Sha256  # digest of text and pixels (common.views.showing.shown_digest)

    def __str__(self) -> str:
        drawn = f", seed {self.seed}: {self.note}" if self.note else ""
        return f"{self.name}{drawn} ({self.sha256[:12]}...)"


class GroupAddress(Record):
    """How servers join a torch.distributed group of the learner (rank 0) and rollout servers."""

    name: Identifier
    host: Host
    port: int = Field(gt=0, lt=65536)
    backend: Literal["gloo", "nccl"]
    world_size: int = Field(gt=1, lt=2**31)


class WeightFiles(Record):
    """A Hugging Face folder that learner and servers can both read."""

    folder: FilePath
    sha256: dict[FileName, Sha256]


class WeightBucket(Record):
    """Tensors sent as one uint8 broadcast: their bytes one after the other, in this order."""

    names: tuple[str, ...]
    dtypes: tuple[str, ...]  # torch names without the prefix: "float32", "bfloat16"
    shapes: tuple[tuple[LongCount, ...], ...]
    num_bytes: int = Field(gt=0, lt=2**63)


class WeightProbe(Record):
    """A fixed image, prompt and response, and what the pushed weights make of them.

    A server whose log-probs differ serves other weights, or something cached from older ones.
    """

    prompt_token_ids: Int32Array  # [P], ONE placeholder for the image
    image: bytes  # an encoded file
    response_token_ids: Int32Array  # [T]
    logprobs: Float32Array  # [T], nats, at temperature 1, by the learner
    tolerance: float = Field(gt=0, allow_inf_nan=False)  # nats, of the mean absolute difference

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if not len(self.response_token_ids) == len(self.logprobs) > 0:
            raise ValueError("need one log-prob for each of at least one response token")
        return self


class WeightChecksums(Record):
    """Checksums of the tensors that a server must hold, under the server's names for them."""

    kind: Literal["cpu", "cuda"]  # SGLang hashes differently on each
    by_name: dict[str, str]


class WeightUpdate(Record):
    """The announcement of a push: which weights, from where, to whom, and how to check them."""

    version: Count
    history: Count  # the ledger's: it grows when a learner resumes and undoes steps
    attempt: Count  # a push that failed is announced again, in a new group
    recipients: dict[MemberId, Count]  # member id -> rank of its first process in the group
    source: GroupAddress | WeightFiles
    buckets: tuple[WeightBucket, ...]
    pause_mode: Literal["retract", "in_place", "abort"] = "retract"
    probes: tuple[WeightProbe, ...] = ()
    checksums: WeightChecksums | None = None
    is_measured: bool = False  # held-out samples are asked about: keep a copy where that is cheap
