"""What a server must answer after a push: log-probs of fixed probes, checksums of its tensors.

A probe is one picture, one question and one response, which the student gives when the learner
starts. It is the same in every push, so that a server that kept its image embedding, its prefix or
its KV from an earlier push is asked for just that. One picture is drawn and one is a photograph,
which goes the way of the samples' pictures: decoded, turned upright, brought to the model's size.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from common.config import RunConfig
from common.families import family_named
from common.families.family import Family
from common.image_text_model import ImageTextModel
from common.pictures import encode_png
from common.rendering import Renderer
from common.served_names import checksum, padding_rows, served_tensors
from common.types import WeightChecksums, WeightProbe
from common.views.texts import IMAGE_PLACEHOLDER
from learner.model.packing import pack
from learner.model.student import response_hidden_states
from learner.objective.head import head_of, mixed_logits, without_grad
from learner.push.buckets import Snapshot
from learner.push.cuda_checksum import cuda_checksums
from learner.push.probe_pictures import drawing, photograph
from learner.views.inputs import PromptView, view_of

_RESPONSE_TOKENS = 16
_PROBLEM = f"{IMAGE_PLACEHOLDER}What is in the picture?"
_TOLERANCE, _BFLOAT16_TOLERANCE = 0.002, 0.15
Positions = Callable[[Tensor, Tensor, Tensor], Tensor]  # ids, types, grid -> [3, P]


class Expectations:
    """Computes what a server has to answer.

    Args:
        model: the student.
        positions: the model's rotary positions of one prompt.
        device: that the model computes on; None means where its weights are.
    """

    def __init__(
        self,
        config: RunConfig,
        model: ImageTextModel,
        renderer: Renderer,
        positions: Positions,
        device: torch.device | None = None,
    ) -> None:
        self._device = device or next(model.parameters()).device
        self._weights = config.weights
        is_coarse = "bfloat16" in (config.model.dtype, config.weights.dtype)
        self._tolerance = config.weights.probe_tolerance or (
            _BFLOAT16_TOLERANCE if is_coarse else _TOLERANCE
        )
        self._is_quantized = config.sglang.quantization is not None
        self._model = model
        self._family = family_named(model.config.model_type)
        self._dtype = getattr(torch, config.model.dtype)
        self._prompt_token_ids = renderer.prompt_token_ids(_PROBLEM)
        vocabulary = model.get_output_embeddings().weight.shape[0]
        allowed = ordinary_tokens(renderer, vocabulary)
        self._subjects = [
            self._subject(renderer, positions, picture, allowed)
            for picture in (drawing(), photograph())
        ]

    def is_due(self, push: int) -> bool:
        """Whether the push of this number (from 0) is to be verified."""
        if push < self._weights.verify_first:
            return True
        every = self._weights.verify_every
        return every > 0 and (push - self._weights.verify_first) % every == every - 1

    def probes(self) -> tuple[WeightProbe, ...]:
        """Make the probes by the weights as they are; in the training thread, between two steps."""
        return tuple(map(self._probe, self._subjects))

    @torch.no_grad()
    def _probe(self, subject: "_Subject") -> WeightProbe:
        logits_TV = self._logits(subject.view, subject.response)
        index_T1 = torch.from_numpy(subject.response.astype(np.int64)).to(logits_TV.device)[:, None]
        logprobs_TV = torch.log_softmax(logits_TV, dim=-1)
        return WeightProbe(
            prompt_token_ids=self._prompt_token_ids,
            image=subject.image,
            response_token_ids=subject.response,
            logprobs=logprobs_TV.gather(1, index_T1)[:, 0].cpu().numpy(),
            tolerance=self._tolerance,
        )

    def _subject(
        self, renderer: Renderer, positions: Positions, picture: Image.Image, allowed: np.ndarray
    ) -> "_Subject":
        view = probe_view(renderer, positions, picture)
        image = encode_png(renderer.fitted(picture))
        return _Subject(view, image, self._sample(view, allowed))

    def _logits(self, view: PromptView, response: np.ndarray) -> Tensor:
        """float32 [T, V]: for each token of a response, the logits that predict it."""
        row = pack([view], [[response.astype(np.int64)]])
        hidden_TD = response_hidden_states(self._model, row.to(self._device), self._dtype)
        everything = slice(None)
        heads = ((1.0, without_grad(head_of(self._model, hidden_TD))),)
        return mixed_logits(heads, everything, everything, temperature=1.0)

    @torch.no_grad()
    def _sample(self, view: PromptView, allowed: np.ndarray) -> np.ndarray:
        """int32 [T]: a response of the student's own, whose log-probs bfloat16 blurs least."""
        draw = torch.Generator().manual_seed(0)
        response = np.empty(0, dtype=np.int32)
        for _ in range(_RESPONSE_TOKENS):
            placeholder = np.append(response, allowed[:1])  # what is predicted is not seen
            logits_V = self._logits(view, placeholder)[-1].cpu()
            law_A = logits_V[torch.from_numpy(allowed)].softmax(dim=-1)
            token = allowed[int(torch.multinomial(law_A, 1, generator=draw))]
            response = np.append(response, token).astype(np.int32)
        return response

    def checksums(self, snapshot: Snapshot) -> WeightChecksums | None:
        """Checksums of what a server makes of `snapshot`; waits until that is complete.

        Returns:
            None when servers quantize, so that they hold other tensors.
        """
        if self._is_quantized:
            return None
        return served_checksums(snapshot.tensors(), self._family)


class _Subject(NamedTuple):
    view: PromptView
    image: bytes  # encoded as engines are given it
    response: np.ndarray  # int32 [T]


def served_checksums(tensors: Mapping[str, Tensor], family: Family) -> WeightChecksums:
    """Checksums under the server's names.

    Args:
        tensors: as they are sent, by state_dict name, a tied head left out.
    """
    is_cuda = next(iter(tensors.values())).device.type == "cuda"
    is_tied = "lm_head.weight" not in tensors
    served = served_tensors(tensors, family, has_tied_head=is_tied)
    contents = {
        name: _served_bytes(name, [tensors[part] for part in parts])
        for name, parts in served.items()
    }
    by_name = cuda_checksums(contents) if is_cuda else _cpu_checksums(contents)
    return WeightChecksums(kind="cuda" if is_cuda else "cpu", by_name=by_name)


def _served_bytes(served_name: str, parts: Sequence[Tensor]) -> list[Tensor]:
    """uint8 [n] each; a vocabulary is filled up with rows of zeros, as SGLang does."""
    first = parts[0]
    contents = [part.contiguous().view(-1).view(torch.uint8) for part in parts]
    if first.ndim and (rows := padding_rows(served_name, len(first))):
        contents.append(contents[0].new_zeros(rows * first[0].nbytes))
    return contents


def ordinary_tokens(renderer: Renderer, vocabulary: int) -> np.ndarray:
    """int64 [A]: the tokens that a response may hold anywhere."""
    special = {*renderer.tokenizer.all_special_ids, *renderer.vision_token_ids}
    # SGLang reports the last id of a vocabulary as 0, as it does image placeholders.
    return np.setdiff1d(np.arange(min(len(renderer.tokenizer), vocabulary) - 1), list(special))


def probe_view(renderer: Renderer, positions: Positions, picture: Image.Image) -> PromptView:
    """The probe's question about a picture."""
    prompt = renderer.prompt(_PROBLEM, picture)
    ids, types, grid = map(
        torch.from_numpy, (prompt.input_ids, prompt.mm_token_type_ids, prompt.image_grid_thw)
    )
    return view_of(prompt, positions(ids, types, grid), renderer.patching)


def _cpu_checksums(contents: Mapping[str, Sequence[Tensor]]) -> dict[str, str]:
    return {name: checksum(part.numpy().data for part in parts) for name, parts in contents.items()}
