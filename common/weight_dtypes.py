"""Which weights stay float32 where all others are bfloat16: in pushes, files and forward passes.

Each family names its own by the ends of their names, with the reasons (`Float32Names`).
"""

from common.families import FAMILIES

_NAMES = [family.float32 for family in FAMILIES.values()]
_SERVED = tuple(end for names in _NAMES for end in names.served)
_COMPUTED = tuple(end for names in _NAMES for end in names.computed)
_STORED = tuple(end for names in _NAMES for end in names.stored)


def is_served_in_float32(name: str) -> bool:
    """Whether a server holds this tensor in float32, whatever it was told. By any of its names."""
    return name.endswith(_SERVED)


def is_computed_in_float32(name: str) -> bool:
    """Whether the learner's passes take this tensor in float32. By state_dict name."""
    return name.endswith(_COMPUTED)


def is_stored_in_float32(name: str) -> bool:
    """Whether files hold this tensor in float32 beside others in bfloat16. By state_dict name."""
    return name.endswith(_STORED)
