"""How the threads of one computation on a CPU wait for each other.

By default libgomp's spin. Where another program has one of the cores, the others then wait awake
for the thread that is not running: with two threads on two cores beside another busy process a
prefill took 6 times as long as with threads that sleep, and a decoding step 79 times (torch 2.13.0,
32 prompts of 145 tokens). On cores of their own sleeping ones take some percent longer.
"""

import os

_POLICY = "OMP_WAIT_POLICY"


def sleeping_threads() -> dict[str, str]:
    """Environment variables for a process that computes; a policy that is set already is kept.

    They count from the start of a process: libgomp reads them when it is loaded.
    """
    return {_POLICY: os.environ.get(_POLICY, "PASSIVE")}
