"""(problem text, picture) -> token ids and 8-bit pixels. The only user of the processor.

Rollout, student and teacher all render here, so there is one pixel path and one template.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

import common.torchvision_compat  # noqa: F401  (must come before transformers)
from common.chat_template import check_thinking, template_of, template_options
from common.config import PromptSection
from common.control_tokens import check_plain, control_tokens
from common.end_tokens import end_token_ids_in
from common.errors import ConfigError, DataError
from common.families import TITLES, family_named
from common.patching import patching_of
from common.picture_sizes import PictureSizes
from common.pictures import DECODE_ERRORS, encode_png, is_plain_png, reason_of
from common.views.showing import Shown, shown_digest
from common.views.texts import IMAGE_PLACEHOLDER

_SAMPLE_PROBLEM = f"{IMAGE_PLACEHOLDER}What is in the picture?"


@dataclass(frozen=True)
class RenderedPrompt:
    """A prompt whose image placeholder is expanded, and the picture that stands there."""

    input_ids: np.ndarray  # int64 [P]
    mm_token_type_ids: np.ndarray  # int64 [P]: 1 at image tokens, 0 elsewhere
    pixels: np.ndarray  # uint8 [height, width, 3], of the size that the model sees
    image_grid_thw: np.ndarray  # int64 [1, 3]: patches in time, height, width
    sha256: str  # shown_digest of what was rendered


class Renderer:
    """Applies a checkpoint's chat template and processor.

    Every picture is brought to the size that the model sees here, once: what an engine is given is
    of that size already, so neither its decoder nor its resizing can make other pixels of it.

    Args:
        model_path: Hugging Face folder, or a name on the hub.
        prompt: thinking and template. None means the defaults.

    Raises:
        ConfigError: no such processor, or a template that cannot make the prompts asked for.
    """

    def __init__(self, model_path: str, prompt: PromptSection | None = None) -> None:
        self._prompt = prompt or PromptSection()
        self._processor: Any = _load_processor(model_path)
        self.tokenizer: Any = self._processor.tokenizer
        config = _load_config(model_path)
        family = family_named(config.model_type, f"model.path = {model_path!r}")
        self._image_token = family.placeholder
        vocabulary = self.tokenizer.get_vocab()
        _check_parts(model_path, self._processor, vocabulary, self._image_token)
        self.vision_token_ids = [vocabulary[t] for t in family.vision_tokens if t in vocabulary]
        self.image_token_id: int = vocabulary[self._image_token]
        self.end_token_ids = _end_token_ids(model_path, config, self.tokenizer)
        self.control_tokens = control_tokens(
            (token.content, token.special) for token in self.tokenizer.added_tokens_decoder.values()
        )
        self._sizes = PictureSizes(self._processor.image_processor, family.has_glm_grid)
        self.patching = patching_of(self._processor.image_processor)
        self._template = self._take_template(model_path)
        self._options = template_options(self._template, self._prompt)
        self._check_template(model_path)

    def text(self, problem: str) -> str:
        """The prompt's text: user turn, one image part, and the generation prompt.

        Raises:
            DataError: not one image placeholder, or a control token in the person's text.
        """
        return self._rendered(problem, ends=True)

    def prompt_token_ids(self, problem: str) -> np.ndarray:
        """int32 [P]: the prompt with ONE placeholder for the image, as rollout engines want it."""
        return self._token_ids([problem])[0].astype(np.int32)

    def fitted(self, picture: Image.Image) -> Image.Image:
        """The picture, RGB, in the size that the model sees; one of that size stays as it is.

        Raises:
            DataError: no size will do, for instance an extreme aspect ratio.
        """
        return self._sizes.fitted(picture)

    def engine_image(self, shown: Shown, content: bytes | None = None) -> tuple[bytes, str]:
        """The input of an engine: a PNG of the pixels that `prompt` makes, and `shown_digest`.

        Args:
            content: the file whose pixels `shown.picture` has, if there is one: it is the PNG
                where it will do.

        Raises:
            DataError: as `fitted`.
        """
        try:
            fitted = self.fitted(shown.picture)
            if content is None or fitted is not shown.picture or not is_plain_png(content):
                content = encode_png(fitted)
            return content, shown_digest(shown.problem, fitted)
        except DataError:
            raise
        except DECODE_ERRORS as error:  # no memory for it, say
            raise DataError(f"it cannot be shown: {reason_of(error)}") from error

    def prompt(self, problem: str, picture: Image.Image) -> RenderedPrompt:
        """The prompt with its pixels and the image placeholder expanded.

        Raises:
            DataError: as `text` and `fitted`.
        """
        return self.prompts([problem], [picture])[0]

    def prompts(
        self, problems: Sequence[str], pictures: Sequence[Image.Image]
    ) -> list[RenderedPrompt]:
        """Several prompts in one call of the tokenizer, which is cheaper than one call each."""
        fitted = [self.fitted(picture) for picture in pictures]
        return list(map(self._with_picture, problems, self._token_ids(problems), fitted))

    def decode(self, token_ids: np.ndarray | list[int]) -> str:
        """Text of response tokens, special tokens left out."""
        text: str = self.tokenizer.decode(list(token_ids), skip_special_tokens=True)
        return text

    def token_texts(self, token_ids: np.ndarray | list[int]) -> list[str]:
        """Each token's own text, special tokens kept."""
        return [self.tokenizer.decode([int(token)]) for token in token_ids]

    def _token_ids(self, problems: Sequence[str]) -> list[np.ndarray]:
        """int64 [P] each, with one placeholder for the image."""
        texts = [self.text(problem) for problem in problems]
        found = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        return [np.asarray(ids, dtype=np.int64) for ids in found]

    def _with_picture(self, problem: str, ids: np.ndarray, fitted: Image.Image) -> RenderedPrompt:
        """Expand the placeholder, and mark its tokens as processors of transformers do."""
        is_placeholder = ids == self.image_token_id
        if (count := int(is_placeholder.sum())) != 1:
            raise DataError(f"{count} {self._image_token} in the tokens of {problem!r}, not 1")
        grid = self.patching.grid_of(fitted.height, fitted.width)
        num_tokens = int(grid.prod()) // self.patching.merge**2
        input_ids = np.repeat(ids, np.where(is_placeholder, num_tokens, 1))
        return RenderedPrompt(
            input_ids=input_ids,
            mm_token_type_ids=(input_ids == self.image_token_id).astype(np.int64),
            pixels=np.array(fitted),  # a copy: of a Pillow picture's own bytes none can be written
            image_grid_thw=grid,
            sha256=shown_digest(problem, fitted),
        )

    # ---- the template ----------------------------------------------------------------------------
    def _rendered(self, problem: str, ends: bool) -> str:
        """The prompt's text by the chat template.

        Args:
            ends: whether it ends in the generation prompt.
        """
        check_plain(problem, self.control_tokens, f"problem {problem[:80]!r}")
        before, found, after = problem.partition(IMAGE_PLACEHOLDER)
        if not found or IMAGE_PLACEHOLDER in after:
            raise DataError(f"problem must hold {IMAGE_PLACEHOLDER!r} exactly once: {problem!r}")
        parts = [{"type": "text", "text": before}] if before else []
        parts += [{"type": "image"}, {"type": "text", "text": after}]
        rendered: str = self._processor.apply_chat_template(
            [{"role": "user", "content": parts}],
            chat_template=self._template,
            tokenize=False,
            add_generation_prompt=ends,
            **self._options,
        )
        return rendered

    def _take_template(self, model_path: str) -> str:
        """The template that is configured, or the checkpoint's. Raises ConfigError."""
        found = template_of(self._processor, self._prompt)
        if found is None:
            raise ConfigError(
                f"model.path = {model_path!r} has no chat template: is it a base model? Fix: name "
                "one that follows instructions, or a template (prompt.chat_template = FILE)"
            )
        return found

    def _check_template(self, model_path: str) -> None:
        from jinja2 import TemplateError

        try:
            text = self._rendered(_SAMPLE_PROBLEM, ends=True)
            turn = self._rendered(_SAMPLE_PROBLEM, ends=False)
        except (TemplateError, TypeError, ValueError, LookupError, AttributeError) as error:
            raise ConfigError(
                f"the chat template of model.path = {model_path!r} cannot render a question about "
                f"a picture: {type(error).__name__}: {error}. Fix: name another template "
                "(prompt.chat_template = FILE)"
            ) from error
        if (pictures := text.count(self._image_token)) != 1:
            raise ConfigError(
                f"the chat template of model.path = {model_path!r} puts {pictures} "
                f"{self._image_token} into a prompt with one picture. Fix: choose an "
                "instruction-tuned image-text model, or name another template "
                "(prompt.chat_template = FILE)"
            )
        tail = text.removeprefix(turn) if text.startswith(turn) else text[-200:]
        check_thinking(tail, self._template, self._prompt)


def _load_processor(model_path: str) -> Any:
    from transformers import AutoProcessor

    try:
        return AutoProcessor.from_pretrained(model_path, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(
            f"model.path = {model_path!r} has no usable processor: {reason} "
            "Fix: name a Hugging Face folder with tokenizer, processor and chat template"
        ) from error


def _check_parts(
    model_path: str, processor: Any, vocabulary: Mapping[str, int], image_token: str
) -> None:
    missing = [
        part
        for part, is_there in (
            ("an image processor", getattr(processor, "image_processor", None) is not None),
            (f"the token {image_token}", image_token in vocabulary),
        )
        if not is_there
    ]
    if missing:
        raise ConfigError(
            f"model.path = {model_path!r} lacks {' and '.join(missing)}: it is no image-text model "
            f"that this project knows. Fix: choose a model of the {TITLES} family"
        )


def _load_config(model_path: str) -> Any:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(model_path, trust_remote_code=False)


def _end_token_ids(model_path: str, config: Any, tokenizer: Any) -> list[int]:
    """The tokens that end a response; every engine is told them."""
    from transformers import GenerationConfig

    try:
        generation = GenerationConfig.from_pretrained(model_path)
    except (OSError, ValueError):
        generation = None  # there is none, or none that says so
    return end_token_ids_in(generation, config, tokenizer)
