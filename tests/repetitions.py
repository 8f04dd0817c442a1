"""How often the long tests repeat what they do: some of it by default, all of it on request.

VISION_OPD_TESTS=full tests/run.sh -m '' runs everything at its full size. Kinds of checks are the
same in both: a smaller number here means fewer seeds, kills or states, never a fault left out.
"""

import os
from typing import TypeVar

Amount = TypeVar("Amount")
IS_FULL = os.environ.get("VISION_OPD_TESTS") == "full"


def repeated(*, some: Amount, full: Amount) -> Amount:
    return full if IS_FULL else some
