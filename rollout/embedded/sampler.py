"""Batched generation with a KV cache on any transformers image-text model; no thread, no socket.

A `DecodingBatch` holds sequences whose caches have equal length, so that nothing is padded. A
prompt is computed once and its cache branched into its sequences. Logits never outlive the call
that made them: after the weights change, no token can come from old logits.
Axes: R prompts, B sequences, L prompt tokens, V vocabulary.
"""

from collections.abc import Sequence as Many
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from common.image_text_model import ImageTextModel


@dataclass(frozen=True)
class RequestLaw:
    """How tokens are drawn. Log-probs are of softmax((logits + bias) / temperature).

    top_k, top_p and min_p cut the draw but not the reported log-probs, as in SGLang.
    """

    max_new_tokens: int = 128
    temperature: float = 1.0  # 0: greedy, reported as temperature 1
    top_p: float = 1.0
    top_k: int = -1  # -1: the whole vocabulary
    min_p: float = 0.0
    stop_token_ids: frozenset[int] = frozenset()  # the model's own end tokens included
    logit_bias: tuple[tuple[int, float], ...] = ()
    top_logprobs: int = 0  # likeliest tokens reported beside each one

    @property
    def is_greedy(self) -> bool:
        return self.temperature < 1e-6 or self.top_k == 1

    @property
    def is_truncated(self) -> bool:
        return self.top_k > 1 or self.top_p < 1 or self.min_p > 0


@dataclass(frozen=True)
class Prompt:
    """A prompt with its image placeholders expanded, and its pixels."""

    input_ids: Tensor  # int64 [L]
    token_types: Tensor  # int64 [L]: 1 at image tokens, 0 elsewhere
    pixel_values: Tensor | None = None  # float [patches, features], images one after the other
    image_grid_thw: Tensor | None = None  # int64 [images, 3]

    def __len__(self) -> int:
        return len(self.input_ids)


class ScoredToken(NamedTuple):
    """A token that could have been drawn."""

    token: int
    logprob: float  # nats


@dataclass(eq=False)
class Sequence:
    """One response in the making."""

    prompt: Prompt
    law: RequestLaw
    rng: np.random.Generator  # one draw a token: independent of what else is in the batch
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    versions: list[str] = field(default_factory=list)  # the weights behind each token
    likeliest: list[list[ScoredToken]] = field(default_factory=list)  # if law.top_logprobs
    finish_reason: dict[str, Any] | None = None  # in SGLang's words
    num_retractions: int = 0

    @property
    def cache_key(self) -> tuple[int, int]:
        """The key of a sequence; sequences with equal keys can share a batch."""
        return len(self.prompt), len(self.token_ids)

    @property
    def version_spans(self) -> list[dict[str, Any]]:
        """Tokens by the weights behind them: [{"version", "start", "end"}]."""
        spans: list[dict[str, Any]] = []
        start = 0
        for version, run in groupby(self.versions):
            end = start + len(list(run))
            spans.append({"version": version, "start": start, "end": end})
            start = end
        return spans

    def append(
        self, token: int, logprob: float, version: str, likeliest: Many[ScoredToken] = ()
    ) -> None:
        if self.law.top_logprobs:
            self.likeliest.append(list(likeliest[: self.law.top_logprobs]))
        self.token_ids.append(token)
        self.logprobs.append(min(logprob, 0.0))
        self.versions.append(version)
        if token in self.law.stop_token_ids:
            self.finish_reason = {"type": "stop", "matched": token}
        elif len(self.token_ids) >= self.law.max_new_tokens:
            self.finish_reason = {"type": "length", "length": len(self.token_ids)}


def new_sequences(prompt: Prompt, law: RequestLaw, n: int, seed: int | None) -> list[Sequence]:
    """n branches of one prompt; branch i draws from a stream of (seed, i), or of fresh entropy."""
    if seed is None:
        streams = np.random.SeedSequence().spawn(n)
    else:
        streams = [np.random.SeedSequence([seed % 2**64, index]) for index in range(n)]
    return [Sequence(prompt, law, np.random.default_rng(stream)) for stream in streams]


def generate(
    model: ImageTextModel,
    prompt: Prompt,
    law: RequestLaw,
    n: int,
    seed: int | None,
    version: str = "default",
) -> list[Sequence]:
    """n finished responses to one prompt: what the engine computes for one request alone."""
    sequences = new_sequences(prompt, law, n, seed)
    batch = DecodingBatch(model, [sequences])
    batch.start(version)
    while batch.is_running:
        batch.advance(version)
    return sequences


@torch.inference_mode()
def prompt_logprobs(model: ImageTextModel, prompt: Prompt, start: int) -> list[float]:
    """Log-probs of the prompt's own tokens start + 1, start + 2, ... by the unchanged logits.

    Those of image placeholders mean nothing.
    """
    count = len(prompt) - start  # rows of logits; the last one is of a token beyond the prompt
    if count < 2:
        return []
    inputs, _ = _prompt_inputs(model, [prompt])
    logits_LV = model(**inputs, use_cache=False, logits_to_keep=count).logits[0, :-1].float()
    targets_L1 = prompt.input_ids[start + 1 :, None]
    found: list[float] = logits_LV.log_softmax(dim=-1).gather(1, targets_L1)[:, 0].tolist()
    return found


class DecodingBatch:
    """Sequences that are decoded together.

    Args:
        model: transformers image-text model in eval mode.
        rows: the sequences of each prompt; all have the same `cache_key`.
    """

    def __init__(self, model: ImageTextModel, rows: Many[list[Sequence]]) -> None:
        from transformers import DynamicCache

        assert len({sequence.cache_key for row in rows for sequence in row}) == 1
        self._model = model
        self._rows = rows
        self._cache = DynamicCache(config=model.config)
        self._length = len(rows[0][0].prompt)  # tokens in the cache
        self.sequences = [sequence for row in rows for sequence in row]
        self._law = _BatchLaw.of([s.law for s in self.sequences], _vocabulary_size(model))
        self._offsets_B = torch.empty(0)  # rope position minus cache index of new tokens

    @property
    def is_running(self) -> bool:
        return any(sequence.finish_reason is None for sequence in self.sequences)

    @torch.inference_mode()
    def start(self, version: str) -> None:
        """Compute prompts (and tokens generated before a retraction), then the next token."""
        logits_RV = self._prefill()
        branches_B = torch.tensor([r for r, row in enumerate(self._rows) for _ in row])
        logits_BV = logits_RV
        if len(branches_B) > len(self._rows):
            self._cache.reorder_cache(branches_B)
            logits_BV = logits_RV[branches_B]
        self._offsets_B = self._offsets_B[branches_B]
        replayed = [sequence.token_ids for sequence in self.sequences]
        if replayed[0]:
            logits_BV = self._forward(torch.tensor(replayed))
        self._sample(logits_BV, version)

    @torch.inference_mode()
    def advance(self, version: str) -> None:
        """Compute one more token for every sequence that is not finished."""
        self._drop_finished()
        if self.sequences:
            last_B1 = torch.tensor([[sequence.token_ids[-1]] for sequence in self.sequences])
            self._sample(self._forward(last_B1), version)

    def _drop_finished(self) -> None:
        keep = [i for i, s in enumerate(self.sequences) if s.finish_reason is None]
        if len(keep) == len(self.sequences):
            return
        index = torch.tensor(keep, dtype=torch.int64)
        self.sequences = [self.sequences[i] for i in keep]
        self._offsets_B = self._offsets_B[index]
        self._law = self._law.select(index)
        if keep:
            self._cache.reorder_cache(index)

    def _prefill(self) -> Tensor:
        inputs, self._offsets_B = _prompt_inputs(self._model, [row[0].prompt for row in self._rows])
        output = self._model(
            **inputs, past_key_values=self._cache, use_cache=True, logits_to_keep=1
        )
        logits_RV: Tensor = output.logits[:, -1]
        return logits_RV

    def _forward(self, token_ids_BT: Tensor) -> Tensor:
        count = token_ids_BT.shape[1]
        positions_BT = self._offsets_B[:, None] + torch.arange(self._length, self._length + count)
        output = self._model(
            input_ids=token_ids_BT,
            position_ids=positions_BT.expand(3, -1, -1),
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self._length += count
        logits_BV: Tensor = output.logits[:, -1]
        return logits_BV

    def _sample(self, logits_BV: Tensor, version: str) -> None:
        draws_B = torch.tensor([s.rng.random() for s in self.sequences], dtype=torch.float64)
        tokens_B, logprobs_B = self._law.draw(logits_BV, draws_B)
        likeliest = self._law.likeliest(logits_BV)
        drawn = zip(tokens_B.tolist(), logprobs_B.tolist(), likeliest, strict=True)
        for sequence, (token, logprob, others) in zip(self.sequences, drawn, strict=True):
            sequence.append(token, logprob, version, others)


def _prompt_inputs(model: ImageTextModel, prompts: Many[Prompt]) -> tuple[dict[str, Any], Tensor]:
    """What the model takes for prompts of one length; rope position minus index, int64 [R]."""
    input_ids_RL = torch.stack([prompt.input_ids for prompt in prompts])
    token_types_RL = torch.stack([prompt.token_types for prompt in prompts])
    inputs: dict[str, Any] = {}
    grids = None
    pixels = [p.pixel_values for p in prompts if p.pixel_values is not None]
    if pixels:
        grids = torch.cat([p.image_grid_thw for p in prompts if p.image_grid_thw is not None])
        inputs = {"pixel_values": torch.cat(pixels), "image_grid_thw": grids}
        inputs["mm_token_type_ids"] = token_types_RL
    positions_3RL, offsets_R1 = model.base_model.get_rope_index(
        input_ids_RL, mm_token_type_ids=token_types_RL, image_grid_thw=grids
    )
    return {"input_ids": input_ids_RL, "position_ids": positions_3RL, **inputs}, offsets_R1[:, 0]


@dataclass(frozen=True)
class _BatchLaw:
    """The laws of a batch as tensors."""

    laws: tuple[RequestLaw, ...]
    temperature_B1: Tensor  # float32
    bias_BV: Tensor | None  # float32
    is_greedy_B: Tensor  # bool

    @classmethod
    def of(cls, laws: Many[RequestLaw], vocabulary_size: int) -> "_BatchLaw":
        bias_BV = None
        if any(law.logit_bias for law in laws):
            bias_BV = torch.zeros(len(laws), vocabulary_size)
            for row, law in enumerate(laws):
                for token, bias in law.logit_bias:
                    bias_BV[row, token] = bias
        temperatures = [[1.0 if law.is_greedy else law.temperature] for law in laws]
        greedy = torch.tensor([law.is_greedy for law in laws])
        return cls(tuple(laws), torch.tensor(temperatures), bias_BV, greedy)

    def select(self, index: Tensor) -> "_BatchLaw":
        return _BatchLaw(
            tuple(self.laws[i] for i in index.tolist()),
            self.temperature_B1[index],
            None if self.bias_BV is None else self.bias_BV[index],
            self.is_greedy_B[index],
        )

    def likeliest(self, logits_BV: Tensor) -> list[list[ScoredToken]]:
        """The likeliest tokens of each row, as many as the law that wants most of them asks for."""
        count = max(law.top_logprobs for law in self.laws)
        if count == 0:
            return [[] for _ in self.laws]
        logprobs_BV = self._logprobs(self._scores(logits_BV))
        top = logprobs_BV.topk(min(count, logprobs_BV.shape[1]), dim=-1)
        rows = zip(top.indices.tolist(), top.values.tolist(), strict=True)
        return [[ScoredToken(*pair) for pair in zip(*row, strict=True)] for row in rows]

    def draw(self, logits_BV: Tensor, draws_B: Tensor) -> tuple[Tensor, Tensor]:
        """Token ids and their log-probs: int64 [B], float32 [B]. `draws_B` is uniform in [0, 1)."""
        scores_BV = self._scores(logits_BV)
        logprobs_BV = self._logprobs(scores_BV)
        tokens_B = torch.where(
            self.is_greedy_B,
            scores_BV.argmax(dim=-1),
            _inverse_cdf(self._truncate(logprobs_BV.exp()), draws_B),
        )
        return tokens_B, logprobs_BV.gather(1, tokens_B[:, None])[:, 0]

    def _scores(self, logits_BV: Tensor) -> Tensor:
        scores_BV = logits_BV.float()
        return scores_BV if self.bias_BV is None else scores_BV + self.bias_BV

    def _logprobs(self, scores_BV: Tensor) -> Tensor:
        return torch.log_softmax(scores_BV / self.temperature_B1, dim=-1)

    def _truncate(self, probs_BV: Tensor) -> Tensor:
        if not any(law.is_truncated for law in self.laws):
            return probs_BV
        probs_BV = probs_BV.clone()
        for row, law in enumerate(self.laws):
            if law.is_truncated:
                probs_BV[row] = _truncated(probs_BV[row], law)
        return probs_BV


def _truncated(probs_V: Tensor, law: RequestLaw) -> Tensor:
    ordered_V, index_V = probs_V.sort(descending=True)
    keep_V = torch.ones_like(ordered_V, dtype=torch.bool)
    if law.top_k > 0:
        keep_V[law.top_k :] = False
    keep_V &= ordered_V.cumsum(0) - ordered_V < law.top_p  # always keeps the likeliest
    keep_V &= ordered_V >= law.min_p * ordered_V[0]
    return torch.zeros_like(probs_V).scatter_(0, index_V, ordered_V * keep_V)


def _inverse_cdf(probs_BV: Tensor, draws_B: Tensor) -> Tensor:
    """The token in whose share of [0, total) each draw falls; never one of probability zero."""
    cumulated_BV = probs_BV.double().cumsum(dim=-1)
    targets_B1 = draws_B[:, None] * cumulated_BV[:, -1:] * (1 - 2**-50)
    return torch.searchsorted(cumulated_BV, targets_B1, right=True)[:, 0]


def _vocabulary_size(model: ImageTextModel) -> int:
    size: int = model.get_output_embeddings().weight.shape[0]
    return size
