"""What a GPU, or a core, can do: peak figures of the makers, and the share of them assumed here."""

from collections.abc import Mapping
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
GPUS: Mapping[str, Device] = {
    "H100": Device("H100", 989e12, 3.35e12, 79 * GIB, 350e9),
    "H200": Device("H200", 989e12, 4.8e12, 140 * GIB, 350e9),
    "A100": Device("A100", 312e12, 2.04e12, 79 * GIB, 230e9),
    "L40S": Device("L40S", 362e12, 0.864e12, 44 * GIB, 25e9),
}
CORE_OPERATIONS = 60e9  # float32 operations a second and thread
CORE_BANDWIDTH = 10e9  # bytes/s and thread


def gpu(name: str, gib: float = 0.0) -> Device:
    """The GPU of this name; H100 in NVIDIA-H100-80GB-HBM3 is found too.

    Args:
        gib: its memory, if that is known better.

    Raises:
        ConfigError: not in the table.
    """
    for known in sorted(GPUS, key=len, reverse=True):
        if known.lower() in name.lower():
            found = GPUS[known]
            return replace(found, memory=gib * GIB) if gib else found
    raise ConfigError(f"GPU {name!r} is not known ({', '.join(GPUS)}). Fix: --gpu with the nearest")


def cores(threads: int) -> Device:
    """A process that computes on so many cores."""
    return Device(
        f"{threads} CPU thread{'s' if threads > 1 else ''}",
        threads * CORE_OPERATIONS,
        threads * CORE_BANDWIDTH,
        0.0,
        CORE_BANDWIDTH,
    )
