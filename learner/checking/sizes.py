"""At what size a check runs: as a GPU will meet it, or so small that a CPU is done in seconds."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Size:
    """
    Args:
        root: tokens of a prompt with its picture.
        branch: tokens of a response.
        heads: of queries; a quarter of them of keys and values.
        width: of a head.
        vocabulary: words.
        hidden: width of the residual stream.
        mib: of a tensor whose checksum is taken.
        patches: of pictures, each one longer than the one before.
    """

    root: int
    branch: int
    heads: int
    width: int
    vocabulary: int
    hidden: int
    mib: int
    patches: int


TRUE = Size(3400, 169, 16, 256, 248_320, 2560, 1024, 13_360)  # Qwen3.5-4B, one group
SMALL = Size(96, 9, 4, 32, 512, 64, 1, 64)
BRANCHES = 8  # responses of a group
