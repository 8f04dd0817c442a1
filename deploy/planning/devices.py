"""What a GPU, or a core, can do: peak figures of the makers, and the share of them assumed here."""

import re
from dataclasses import dataclass, replace

from common.errors import ConfigError

# Of peak operations, of a whole step with fla's kernels and fused norms: between the 0.25 and 0.35
# that operations, traffic and launches counted at Qwen3.5-4B's shapes allow. Not measured.
LEARNER_SHARE = 0.30
PREFILL_SHARE = 0.50
DECODE_SHARE = 0.60  # share of memory bandwidth used while decoding
PUSH_RATE = 8.5e9  # bytes/s of a push end to end, gather and load included: verl's for NCCL
LAUNCH_S = 1.5e-3  # scheduler and kernel launches of one decoding step
NETWORK_RATE = 45e9  # bytes/s a GPU between machines: one 400 Gb/s port each, as used
# Bytes/s between a GPU and main memory: what PCIe 4 x16 leaves of its 32e9 to copies of single
# tensors; where memory is not pinned, the middle of 6 to 10e9, as one thread copies.
HOST_RATE, PAGEABLE_RATE = 20e9, 8e9
# AdamW and averages on CPUs, bytes/s: of a thread, the middle of 5 to 10e9; of all of them, half of
# what the data sheet gives a socket with eight channels of DDR5-4800.
THREAD_RATE, MEMORY_RATE = 7.5e9, 150e9


@dataclass(frozen=True)
class Device:
    """One GPU, or the cores of one process."""

    name: str
    operations: float  # dense bfloat16 operations a second
    bandwidth: float  # bytes/s that memory gives
    memory: float  # bytes; 0 means main memory, which is not counted
    link: float  # bytes/s between GPUs of a machine, as used

    @property
    def is_gpu(self) -> bool:
        return self.memory > 0


GIB = 2**30
# Data sheets of NVIDIA (SXM where there is one); links: NVLink 4: 450 GB/s a direction, some 350 of
# them used; NVLink 3: 300, some 230; L40S: PCIe 4 x16.
GPUS = (
    Device("H100", 989e12, 3.35e12, 79 * GIB, 350e9),
    Device("H200", 989e12, 4.8e12, 140 * GIB, 350e9),
    Device("A100", 312e12, 2.04e12, 79 * GIB, 230e9),
    Device("L40S", 362e12, 0.864e12, 44 * GIB, 25e9),
)
CORE_OPERATIONS = 60e9  # float32 operations a second and thread
CORE_BANDWIDTH = 10e9  # bytes/s and thread


def gpu(name: str, gib: float = 0.0) -> Device:
    """The GPU whose name these words are, or hold: H100 is in NVIDIA-H100-80GB-HBM3.

    Whole words count: a GB200 is no B200.

    Args:
        gib: its memory, if that is known better.

    Raises:
        ConfigError: not in the table.
    """
    for known in sorted(GPUS, key=lambda device: len(device.name), reverse=True):
        if f" {_words(known.name)} " in f" {_words(name)} ":
            return replace(known, memory=gib * GIB) if gib else known
    names = ", ".join(device.name for device in GPUS)
    raise ConfigError(f"GPU {name!r} is not known ({names}). Fix: --gpu with the nearest")


def _words(name: str) -> str:
    return " ".join(re.findall(r"[A-Z0-9]+", name.upper()))


def cores(threads: int) -> Device:
    """A process that computes on so many cores."""
    return Device(
        f"{threads} CPU thread{'s' if threads > 1 else ''}",
        threads * CORE_OPERATIONS,
        threads * CORE_BANDWIDTH,
        0.0,
        CORE_BANDWIDTH,
    )
