"""A push of weights to a second process: python -m deploy.check_push --out FILE --device DEVICE

Over NCCL where there are two GPUs, over gloo on CPUs; on one GPU, where NCCL refuses two ranks,
through files. Part of `python -m deploy.check_gpu`.
"""

import argparse
import hashlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from common.push_groups import PREFIX
from learner.checking import findings
from learner.checking.command import parsed, parser_of
from learner.checking.findings import Figure, Finding, outcome_of
from learner.push.buckets import MIB
from learner.push.group import PushGroup
from rollout.embedded.weights import UpdateGroup

_HOST, _NAME = "127.0.0.1", f"{PREFIX}check"
_TIMEOUT_S = 60.0
_BUCKETS = 4


def main(argv: Sequence[str] | None = None) -> None:
    parser = parser_of("python -m deploy.check_push")
    parser.add_argument("--receive", metavar="BACKEND:PORT:BYTES", help=argparse.SUPPRESS)
    options = parsed(parser, argv)
    if options.receive:
        backend, port, num_bytes = options.receive.split(":")
        receive(backend, int(port), int(num_bytes))
        return
    for finding in check_push(options.device, (1 if options.small else 256) * MIB):
        findings.append(options.out, finding)


def check_push(device: str, bucket_bytes: int) -> Iterator[Finding]:
    """Broadcasts where the machine can, and files."""
    if device == "cpu":
        yield by_broadcast("gloo", torch.device("cpu"), bucket_bytes)
    elif torch.cuda.device_count() > 1:
        yield by_broadcast("nccl", torch.device("cuda", 0), bucket_bytes)
    else:
        yield Finding("push", "broadcast", "skipped", remark="NCCL needs two GPUs")
    yield by_files(torch.device(device), bucket_bytes)


# ---- broadcasts ----------------------------------------------------------------------------------
def by_broadcast(backend: str, device: torch.device, bucket_bytes: int) -> Finding:
    """The learner's group and an engine's, as in a run."""
    bucket = _random_bytes(bucket_bytes, device)
    group = PushGroup(_NAME, _HOST, 2, backend, _TIMEOUT_S)
    words = f"{backend}:{group.port}:{bucket_bytes}"
    command = [sys.executable, "-m", "deploy.check_push", "--out", "-", "--device", device.type]
    with subprocess.Popen(
        [*command, "--receive", words], stdout=subprocess.PIPE, text=True
    ) as other:
        try:
            join_s = _seconds(group.join)
            took_s = [_seconds(lambda: _sent(group, bucket)) for _ in range(_BUCKETS)]
            said, _ = other.communicate(timeout=_TIMEOUT_S)
        finally:
            group.close()
            other.kill()
    is_same = said.strip() == _digest(bucket)
    figures: dict[str, Figure] = {
        "join_s": join_s,
        "bytes_per_s": bucket_bytes / min(took_s),
        "backend": backend,
    }
    remark = "" if is_same else "other bytes came than were sent"
    return Finding("push", "broadcast", outcome_of(is_same), figures, remark)


def receive(backend: str, port: int, num_bytes: int) -> None:
    """The other process: prints the digest of what came last."""
    device = torch.device("cuda", 1) if backend == "nccl" else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    group = UpdateGroup(_HOST, port, 1, 2, _NAME, backend, _TIMEOUT_S)
    bucket = torch.empty(num_bytes, dtype=torch.uint8, device=device)
    for _ in range(_BUCKETS):
        group.receive_into(bucket)
    print(_digest(bucket), flush=True)
    group.close()


def _sent(group: PushGroup, bucket: Tensor) -> None:
    group.broadcast(bucket)
    if bucket.device.type == "cuda":
        torch.cuda.synchronize(bucket.device)


# ---- files ---------------------------------------------------------------------------------------
def by_files(device: torch.device, bucket_bytes: int) -> Finding:
    """A safetensors file, in shared memory where there is any; another process reads it."""
    from safetensors.torch import save_file

    shared = Path("/dev/shm")
    bucket = _random_bytes(bucket_bytes, device)
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as folder:
        file = Path(folder) / "weights.safetensors"
        write_s = _seconds(lambda: save_file({"bucket": bucket.cpu()}, file))
        began = time.perf_counter()
        read = subprocess.run(
            [sys.executable, "-c", _READ, str(file)],
            capture_output=True, text=True, timeout=_TIMEOUT_S, check=False,
        )  # fmt: skip
        read_s = time.perf_counter() - began
    is_same = read.stdout.strip() == _digest(bucket)
    figures = {"write_bytes_per_s": bucket_bytes / write_s, "read_s": read_s}
    remark = "" if is_same else f"other bytes were read than were written {read.stderr[-200:]}"
    return Finding("push", "files", outcome_of(is_same), figures, remark)


_READ = """
import hashlib, sys
from safetensors import safe_open
with safe_open(sys.argv[1], "np") as file:
    print(hashlib.sha256(file.get_tensor("bucket")).hexdigest())
"""


def _random_bytes(count: int, device: torch.device) -> Tensor:
    return torch.randint(256, (count,), dtype=torch.uint8, device=device)


def _digest(content: Tensor) -> str:
    return hashlib.sha256(content.cpu().numpy().tobytes()).hexdigest()


def _seconds(call: Callable[[], None]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
