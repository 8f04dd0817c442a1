"""What a server must answer after a push: log-probs of a fixed probe, checksums of its tensors.

The probe is one picture, one question and one response of fixed tokens, the same in every push of a
run, so that a server that kept its image embedding, its prefix or its KV from an earlier push is
asked for just that.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from common.config import RunConfig
from common.rendering import IMAGE_PLACEHOLDER, Renderer
from common.served_names import checksum, padding_rows, served_tensors
from common.types import WeightChecksums, WeightProbe
from learner.buckets import Snapshot
from learner.cuda_checksum import cuda_checksum
from learner.inputs import PromptView
from learner.model import response_hidden_states
from learner.prefix import build_rows

_SIDE = 256  # pixels
_RESPONSE_TOKENS = 16
_PROBLEM = f"{IMAGE_PLACEHOLDER}What is in the picture?"
_TOLERANCES = {"float32": 0.002, "bfloat16": 0.15}
Positions = Callable[[Tensor, Tensor, Tensor], Tensor]  # ids, types, grid -> [3, P]


class Expectations:
    """Computes what a server has to answer.

    Args:
        model: the student.
        positions: the model's rotary positions of one prompt.
    """

    def __init__(
        self, config: RunConfig, model: Any, renderer: Renderer, positions: Positions
    ) -> None:
        self._weights = config.weights
        self._is_quantized = config.sglang.quantization is not None
        self._model = model
        self._dtype = getattr(torch, config.model.dtype)
        self._pad_token_id = renderer.tokenizer.pad_token_id
        picture = probe_picture()
        self._image = _png(picture)
        self._prompt_token_ids = renderer.prompt_token_ids(_PROBLEM)
        self._response = response_tokens(renderer, model.get_output_embeddings().weight.shape[0])
        prompt = renderer.prompt(_PROBLEM, picture)
        ids, types, grid = map(
            torch.from_numpy, (prompt.input_ids, prompt.mm_token_type_ids, prompt.image_grid_thw)
        )
        pixels = torch.from_numpy(prompt.pixel_values.copy())
        self._view = PromptView(ids, positions(ids, types, grid), pixels, grid)

    def is_due(self, push: int) -> bool:
        """Whether the push of this number (from 0) is to be verified."""
        if push < self._weights.verify_first:
            return True
        every = self._weights.verify_every
        return every > 0 and (push - self._weights.verify_first) % every == every - 1

    @torch.no_grad()
    def probe(self) -> WeightProbe:
        """By the weights as they are: in the thread that trains, between two steps."""
        response = self._response.astype(np.int64)
        rows = build_rows([self._view], [[response]], self._pad_token_id)
        device = next(self._model.parameters()).device
        hidden_TD = response_hidden_states(self._model, rows.to(device), self._dtype)
        head = self._model.get_output_embeddings().weight.to(hidden_TD.dtype)
        logprobs_TV = torch.log_softmax((hidden_TD @ head.T).float(), dim=-1)
        index_T1 = torch.from_numpy(response).to(device)[:, None]
        return WeightProbe(
            prompt_token_ids=self._prompt_token_ids,
            image=self._image,
            response_token_ids=self._response,
            logprobs=logprobs_TV.gather(1, index_T1)[:, 0].cpu().numpy(),
            tolerance=self._weights.probe_tolerance or _TOLERANCES[self._weights.dtype],
        )

    def checksums(self, snapshot: Snapshot) -> WeightChecksums | None:
        """Of the tensors that a server makes of `snapshot`; waits until it is complete.

        None: servers quantize, so that they hold others.
        """
        if self._is_quantized:
            return None
        tensors = {
            name: tensor
            for bucket in snapshot.buckets_as_tensors()
            for name, tensor in bucket.items()
        }
        return served_checksums(tensors)


def served_checksums(tensors: Mapping[str, Tensor]) -> WeightChecksums:
    """Checksums under the server's names.

    Args:
        tensors: as they are sent, by state_dict name, a tied head left out.
    """
    is_cuda = next(iter(tensors.values())).device.type == "cuda"
    hash_of = cuda_checksum if is_cuda else _cpu_checksum
    served = served_tensors(tensors, has_tied_head="lm_head.weight" not in tensors)
    return WeightChecksums(
        kind="cuda" if is_cuda else "cpu",
        by_name={
            name: hash_of(_served_bytes(name, [tensors[part] for part in parts]))
            for name, parts in served.items()
        },
    )


def _served_bytes(served_name: str, parts: Sequence[Tensor]) -> list[Tensor]:
    """uint8 [n] each; a vocabulary is filled up with rows of zeros, as SGLang does."""
    first = parts[0]
    contents = [part.contiguous().view(-1).view(torch.uint8) for part in parts]
    if first.ndim and (rows := padding_rows(served_name, len(first))):
        contents.append(contents[0].new_zeros(rows * first[0].nbytes))
    return contents


def response_tokens(renderer: Renderer, vocabulary: int) -> np.ndarray:
    """int32 [T]: ordinary tokens, drawn once and for all."""
    special = {*renderer.tokenizer.all_special_ids, *renderer.vision_token_ids}
    size = min(vocabulary, len(renderer.tokenizer))
    # SGLang reports the last id of a vocabulary as 0, as it does image placeholders.
    ordinary = np.setdiff1d(np.arange(size - 1), list(special))
    return np.random.default_rng(0).choice(ordinary, _RESPONSE_TOKENS).astype(np.int32)


def probe_picture() -> Image.Image:
    """A picture with structure at several scales that compresses well."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 255, _SIDE).astype(np.uint8)
    channels = [np.tile(ramp, (_SIDE, 1)), np.tile(ramp[:, None], (1, _SIDE))]
    channels.append(np.full((_SIDE, _SIDE), 128, dtype=np.uint8))
    picture = Image.fromarray(np.stack(channels, axis=-1))
    draw = ImageDraw.Draw(picture)
    for _ in range(24):
        x, y = rng.integers(0, _SIDE - 16, 2).tolist()
        width, height = rng.integers(8, 64, 2).tolist()
        draw.rectangle((x, y, x + width, y + height), fill=tuple(rng.integers(0, 256, 3).tolist()))
    return picture


def _png(picture: Image.Image) -> bytes:
    content = io.BytesIO()
    picture.save(content, "PNG")
    return content.getvalue()


def _cpu_checksum(parts: Sequence[Tensor]) -> str:
    return checksum(part.numpy().data for part in parts)
