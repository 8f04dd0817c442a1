"""How many tokens a sample's prompt has with the student's view, and with the teacher's."""

from dataclasses import dataclass
from pathlib import Path

from common.config import PromptSection
from common.errors import ConfigError, DataError
from common.picture_grid import PictureGrid, grid_of_folder
from common.prompt_lengths import PromptLengths, lengths_of_folder

QWEN3_5 = PictureGrid(unit=32, least=65_536, most=16_777_216)
NO_SIZE = 0  # in place of a count: no processor takes a picture of that shape


@dataclass(frozen=True)
class TokenCounts:
    """A rule by which tokens are counted."""

    grid: PictureGrid
    lengths: PromptLengths | None  # counts the text; None means that only pictures are counted

    @property
    def words(self) -> str:
        """What is counted."""
        if self.lengths is not None:
            return "of the whole prompt, by the files of --model"
        return "of the picture alone, by Qwen3.5's rule; --model PATH counts the text, too"

    def of_text(self, problem: str) -> int:
        """Tokens of a prompt but for its picture: of the template's frame and the problem."""
        if self.lengths is None:
            return 0
        side = self.grid.unit
        whole = self.lengths.over(0, problem, side, side)
        assert whole is not None  # every prompt has tokens
        return whole - self.grid.tokens_of(side, side)

    def of_picture(self, size: tuple[int, int]) -> int:
        """Image tokens of a picture of this width and height; NO_SIZE where it has none."""
        try:
            return self.grid.tokens_of(*size)
        except DataError:
            return NO_SIZE


def token_counts(model: Path | None) -> TokenCounts:
    """The rule by which a checkpoint's prompts are counted.

    Args:
        model: its folder; None means that only pictures are counted, by Qwen3.5's rule.

    Raises:
        ConfigError: the folder does not tell how tokens are counted.
    """
    if model is None:
        return TokenCounts(QWEN3_5, None)
    grid, lengths = grid_of_folder(model), lengths_of_folder(model, PromptSection())
    if grid is None or lengths is None:
        raise ConfigError(
            f"--model {model}: its files do not tell how prompts are counted. Fix: name a folder "
            "with tokenizer.json, the chat template and the processor's configuration"
        )
    return TokenCounts(grid, lengths)
