"""The contrast of the visual advantage: a picture without its fine detail."""

from PIL import Image


def pixelated(picture: Image.Image, pixels: int) -> Image.Image:
    """`picture` in squares of one colour each, their mean; same size, hence as many image tokens.

    It keeps layout and colours and loses fine detail (VA-OPD, arXiv 2605.21924).

    Args:
        picture: RGB.
        pixels: side of a square; those at the right and lower edge are cut off by it.
    """
    means = picture.reduce(pixels)
    squares = means.resize((means.width * pixels, means.height * pixels), Image.Resampling.NEAREST)
    return squares.crop((0, 0, *picture.size))
