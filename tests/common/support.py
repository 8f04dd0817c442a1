"""A stand-in for nvidia-smi, and any message of the wire, for tests of all packages."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydantic import BaseModel

from broker import protocol as p
from common.types import (
    Box,
    GroupAddress,
    GroupLease,
    ImageRef,
    Sample,
    WeightBucket,
    WeightChecksums,
    WeightFiles,
    WeightProbe,
    WeightUpdate,
)

H100 = "NVIDIA H100 80GB HBM3, 81559 MiB, 550.90.07"


def nvidia_smi(folder: Path, body: str, patch: pytest.MonkeyPatch) -> None:
    tool = folder / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{body}\n")
    tool.chmod(0o755)
    patch.setenv("PATH", str(folder))


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
printable = st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"])
names = st.text(printable, min_size=1, max_size=20)
paths = st.text(printable, min_size=1, max_size=20)
member_ids = st.from_regex(r"[A-Za-z0-9_./:@-]{1,20}", fullmatch=True)
digests = st.from_regex(r"[0-9a-f]{64}", fullmatch=True)
counts = st.integers(0, 2**31 - 1)
sizes = st.integers(1, 2**31 - 1)
long_counts = st.integers(0, 2**63 - 1)
places = st.integers(0, 2**30 - 1)  # in a picture
waits = st.floats(0, 60)
gauges = st.dictionaries(names, st.floats(allow_nan=False, allow_infinity=False), max_size=3)
images = st.builds(ImageRef, sha256=digests, path=paths, width=sizes, height=sizes)
boxes = st.builds(
    lambda x, y, w, h: Box(x1=x, y1=y, x2=x + w, y2=y + h),
    places,
    places,
    places.map(lambda n: n + 1),
    places.map(lambda n: n + 1),
)
samples = st.builds(
    Sample,
    sample_id=names,
    problem=texts,
    image=images,
    box=st.none() | boxes,
    crop=st.none() | images,
)


leases = st.builds(
    GroupLease,
    group_id=names,
    attempt=counts,
    sample=samples,
    num_trajectories=sizes,
    sampling_seed=st.integers(0, 2**31 - 1),
    lease_s=st.floats(0.1, 1e6),
)
buckets = st.builds(
    WeightBucket,
    names=st.lists(names, max_size=3).map(tuple),
    dtypes=st.lists(names, max_size=3).map(tuple),
    shapes=st.lists(st.lists(sizes, max_size=4).map(tuple), max_size=3).map(tuple),
    num_bytes=sizes,
)
push_groups = st.builds(
    GroupAddress,
    name=names,
    host=names,
    port=st.integers(1, 65535),
    backend=st.sampled_from(["gloo", "nccl"]),
    world_size=st.integers(2, 9),
)
weight_files = st.builds(
    WeightFiles,
    folder=paths,
    sha256=st.dictionaries(
        st.sampled_from(["a.json", "b.safetensors"]), st.just("0" * 64), max_size=2
    ),
)
probes = st.builds(
    WeightProbe,
    prompt_token_ids=st.just(np.array([1, 2], dtype=np.int32)),
    image=st.binary(max_size=9),
    response_token_ids=st.just(np.array([3], dtype=np.int32)),
    logprobs=st.just(np.array([-0.5], dtype=np.float32)),
    tolerance=st.floats(0.001, 1),
)
checksums = st.builds(
    WeightChecksums,
    kind=st.sampled_from(["cpu", "cuda"]),
    by_name=st.dictionaries(names, names, max_size=2),
)
updates = st.builds(
    WeightUpdate,
    version=counts,
    history=counts,
    attempt=counts,
    recipients=st.dictionaries(member_ids, counts, max_size=3),
    source=push_groups | weight_files,
    buckets=st.lists(buckets, max_size=2).map(tuple),
    pause_mode=st.sampled_from(["retract", "in_place", "abort"]),
    probes=st.lists(probes, max_size=2).map(tuple),
    checksums=st.none() | checksums,
)
answers = st.builds(
    p.Answer,
    index=counts,
    token_ids=hnp.arrays(np.int32, st.integers(0, 4)),
    is_cut=st.booleans(),
    error=texts,
)
answer_lists = st.lists(answers, max_size=3).map(tuple)
asked_items = st.builds(
    p.AskedItem, index=counts, sample=samples, view=st.sampled_from(p.EvaluationView)
)
versions = st.lists(counts, max_size=3).map(tuple)
me = {"member_id": member_ids, "incarnation": long_counts}
member_statuses = st.builds(
    p.MemberStatus,
    member_id=names,
    role=st.sampled_from(p.Role),
    silent_s=waits,
    acknowledged_version=st.integers(-1, 9),
    gauges=gauges,
    details=st.dictionaries(names, texts, max_size=2),
)
MESSAGES: dict[type[BaseModel], st.SearchStrategy[Any]] = {
    p.Hello: st.builds(
        p.Hello,
        **me,
        role=st.sampled_from(p.Role),
        protocol_version=counts,
        details=st.dictionaries(names, texts, max_size=2),
    ),
    p.Heartbeat: st.builds(p.Heartbeat, **me, gauges=gauges),
    p.Goodbye: st.builds(p.Goodbye, **me),
    p.LeaseRequest: st.builds(
        p.LeaseRequest,
        **me,
        max_groups=st.integers(1, 1024),
        history=counts,
        serving_version=counts,
        wait_s=waits,
    ),
    p.SubmitGroups: st.builds(
        p.SubmitGroups,
        **me,
        groups=st.lists(st.binary(max_size=99), min_size=1, max_size=3).map(tuple),
    ),
    p.GiveBack: st.builds(
        p.GiveBack,
        **me,
        group_id=names,
        attempt=counts,
        reason=texts,
        blame=st.sampled_from(p.Blame),
    ),
    p.TakeBatch: st.builds(
        p.TakeBatch,
        **me,
        step=sizes,
        rank=counts,
        world_size=sizes,
        first=counts,
        batch_id=counts,
        wait_s=waits,
    ),
    p.AckBatch: st.builds(
        p.AckBatch,
        **me,
        batch_id=counts,
        step=sizes,
        rank=counts,
        refused=st.dictionaries(names, texts, max_size=2),
        wait_s=waits,
    ),
    p.Resume: st.builds(p.Resume, **me, step=counts),
    p.CommitStep: st.builds(p.CommitStep, **me, step=counts, oldest=counts),
    p.AnnounceWeights: st.builds(p.AnnounceWeights, **me, update=updates),
    p.WatchWeights: st.builds(
        p.WatchWeights,
        **me,
        seen_serial=counts,
        wait_s=waits,
    ),
    p.AckWeights: st.builds(
        p.AckWeights, **me, history=counts, version=counts, is_pinned=st.booleans()
    ),
    p.OrderMeasurement: st.builds(
        p.OrderMeasurement,
        **me,
        number=long_counts,
        history=counts,
        version=counts,
        sample_ids=st.lists(names, min_size=1, max_size=3).map(tuple),
        num_urgent=counts,
        max_tokens=sizes,
        is_last=st.booleans(),
    ),
    p.ReadMeasurement: st.builds(
        p.ReadMeasurement,
        **me,
        number=long_counts,
        seen=counts,
        is_pinned=st.booleans(),
        wait_s=waits,
    ),
    p.DropMeasurement: st.builds(p.DropMeasurement, **me, number=long_counts),
    p.LeaseAnswers: st.builds(
        p.LeaseAnswers,
        **me,
        history=counts,
        serving_version=counts,
        pinned=versions,
        max_items=st.integers(1, 1024),
        wait_s=waits,
    ),
    p.SubmitAnswers: st.builds(
        p.SubmitAnswers, **me, number=long_counts, answers=answer_lists, given_back=versions
    ),
    p.AnswerLease: st.builds(
        p.AnswerLease,
        number=long_counts,
        version=counts,
        max_tokens=counts,
        is_urgent=st.booleans(),
        is_last=st.booleans(),
        items=st.lists(asked_items, max_size=2).map(tuple),
        finished=st.booleans(),
    ),
    p.MeasurementNews: st.builds(p.MeasurementNews, answers=answer_lists, is_pinned=st.booleans()),
    p.WatchMembers: st.builds(p.WatchMembers, **me, at_least=counts, wait_s=waits),
    p.GetImage: st.builds(p.GetImage, sha256=digests),
    p.GetStatus: st.builds(p.GetStatus),
    p.Finish: st.builds(p.Finish, **me, reason=texts),
    p.Welcome: st.builds(
        p.Welcome,
        run_id=names,
        protocol_version=counts,
        groups_per_step=counts,
        max_staleness=counts,
        total_steps=counts,
        heartbeat_s=waits,
        max_frame_bytes=sizes,
    ),
    p.Done: st.builds(p.Done, finished=st.booleans()),
    p.Leases: st.builds(
        p.Leases, leases=st.lists(leases, max_size=2).map(tuple), finished=st.booleans()
    ),
    p.Submitted: st.builds(
        p.Submitted,
        outcomes=st.lists(
            st.sampled_from(p.Verdict) | st.builds(p.Refused, code=texts, message=texts), max_size=3
        ).map(tuple),
    ),
    p.Batch: st.builds(
        p.Batch,
        step=sizes,
        groups=st.lists(st.binary(max_size=99), max_size=2).map(tuple),
        num_groups=counts,
        exhausted=st.booleans(),
    ),
    p.Acknowledged: st.builds(p.Acknowledged, step=counts, is_complete=st.booleans()),
    p.Resumed: st.builds(p.Resumed, history=counts, version=counts),
    p.Announcement: st.builds(
        p.Announcement, serial=counts, update=st.none() | updates, finished=st.booleans()
    ),
    p.Members: st.builds(
        p.Members,
        acknowledged=st.dictionaries(names, st.integers(-1, 9)),
        ranks=st.dictionaries(names, counts),
    ),
    p.ImageBytes: st.builds(p.ImageBytes, content=st.binary(max_size=99)),
    p.Status: st.builds(
        p.Status,
        run_id=names,
        version=counts,
        history=counts,
        committed=counts,
        total_steps=counts,
        finished=st.booleans(),
        counts=st.dictionaries(names, counts, max_size=2),
        expired_by_reason=st.dictionaries(names, counts, max_size=2),
        trained_lengths=st.dictionaries(names, counts, max_size=2),
        expired_lengths=st.dictionaries(names, counts, max_size=2),
        max_staleness_seen=counts,
        slots_used=counts,
        slots=counts,
        storage=gauges,
        members=st.lists(member_statuses, max_size=2).map(tuple),
    ),
    p.Refused: st.builds(p.Refused, code=texts, message=texts),
}
