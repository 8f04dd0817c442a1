"""At what size kernels are checked: as a GPU meets them, or so small that a CPU takes seconds."""

from dataclasses import dataclass

BRANCHES = 8  # responses of one group


@dataclass(frozen=True)
class Size:
    """One group of a model.

    Args:
        root: tokens of a prompt with its picture.
        branch: tokens of a response.
        heads: of queries; a quarter of them of keys and values.
        width: of a head.
        vocabulary: words.
        hidden: width of the residual stream.
        checksum_bytes: of the tensor whose checksum is taken.
        patches: of the picture.
    """

    root: int
    branch: int
    heads: int
    width: int
    vocabulary: int
    hidden: int
    checksum_bytes: int
    patches: int


# A checksum works on words of four bytes: three are missing to a whole one.
TRUE = Size(3400, 169, 16, 256, 248_320, 2560, 2**24 - 3, 13_360)  # Qwen3.5-4B
SMALL = Size(96, 9, 4, 32, 512, 64, 2**14 - 3, 64)
