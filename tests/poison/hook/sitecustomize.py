"""On PYTHONPATH, this puts the faults of tests/poison/engine_kinds.py into embedded engines."""

import sys

if "rollout.embedded" in sys.orig_argv:
    from tests.poison.engine_kinds import install

    install()
