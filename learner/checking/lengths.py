"""How long prompts and responses are in the published run of a 4B model.

Medians: prompt 3,366 tokens of which image 3,290; crop prompt 289 of which image 210; response 170.
"""

from dataclasses import dataclass

_MICRO_BATCH_TOKENS = 9216  # student tokens of a micro-batch, as published


@dataclass(frozen=True)
class Lengths:
    """Numbers of tokens: image and text of a prompt, the crop's image, a response."""

    image: int
    text: int
    crop: int
    response: int

    @property
    def micro_batch_tokens(self) -> int:
        per_sequence = self.image + self.text + self.response
        return round(_MICRO_BATCH_TOKENS / 3536 * per_sequence)


PUBLISHED = Lengths(image=3290, text=76, crop=210, response=170)


def scaled_lengths(scale: float) -> Lengths:
    """The published lengths, divided by `scale`; at least two tokens each."""
    return Lengths(**{name: max(2, round(n / scale)) for name, n in vars(PUBLISHED).items()})
