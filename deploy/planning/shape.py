"""The size of a model: parameters, operations a token, bytes of cache. From config.json, or known.

Counted are matrices (norms and biases are some hundredths of a percent) and, for operations, the
products of attention. N parameters cost 2 N operations a token, forward.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from common.errors import ConfigError
from common.families import FAMILIES, TITLES, find_family
from common.families.family import Family


@dataclass(frozen=True)
class Tower:
    """The size of a vision tower."""

    depth: int
    width: int
    mlp_width: int
    patch: int  # pixels on a side
    merge: int  # patches on a side that become one token
    output_width: int
    mergers: int = 1  # MLPs behind the last block and, with DeepStack, behind others
    is_gated: bool = False  # whether an MLP has three matrices, as in Qwen2.5-VL
    patch_depth: int = 2
    positions: int = 0  # learnt position embeddings
    merger: int = 0  # parameters of each merger; 0 means two layers over merged patches

    @property
    def block_parameters(self) -> int:
        mlp = (3 if self.is_gated else 2) * self.width * self.mlp_width
        return self.depth * (4 * self.width**2 + mlp)

    @property
    def merger_parameters(self) -> int:
        merged = self.width * self.merge**2
        return self.mergers * (self.merger or merged**2 + merged * self.output_width)

    @property
    def parameters(self) -> int:
        pixels = 3 * self.patch_depth * self.patch**2
        embedding = (pixels + self.positions) * self.width
        return self.block_parameters + self.merger_parameters + embedding

    def operations(self, image_tokens: float) -> float:
        """Forward, of one image. Every patch attends to every other one."""
        patches = image_tokens * self.merge**2
        mergers = 2 * self.merger_parameters * image_tokens
        attention = 4 * self.depth * self.width * patches**2
        return 2 * self.block_parameters * patches + attention + mergers


@dataclass(frozen=True)
class ModelShape:
    """The size of an image-text model: its decoder, head and vision tower."""

    source: str
    width: int
    layers: int
    full_layers: int  # layers with attention over all tokens; the others are gated delta nets
    heads: int
    kv_heads: int
    head_width: int
    mlp_width: int
    vocabulary: int
    is_tied: bool
    tower: Tower
    has_gate: bool = False  # whether queries come with a gate of their size, as in Qwen3.5
    has_norms_behind: bool = False  # as in GLM, whose MLP has no fused form
    delta_keys: int = 0  # width of all keys of a gated delta net: heads * width of one
    delta_values: int = 0
    delta_state: int = 0  # numbers of recurrent state a layer and sequence
    delta_heads: int = 0  # heads of values; each has a decay and a gate
    delta_taps: int = 3  # inputs that a convolution remembers

    @property
    def embedding_parameters(self) -> int:
        return self.vocabulary * self.width

    @property
    def layer_parameters(self) -> int:
        """Parameters of all decoder layers: what every token is multiplied with."""
        query = self.heads * self.head_width
        full = self.width * (query * (2 if self.has_gate else 1) + query)
        full += 2 * self.width * self.kv_heads * self.head_width
        delta = self.width * (2 * self.delta_keys + 3 * self.delta_values + 2 * self.delta_heads)
        mlp = 3 * self.width * self.mlp_width
        delta_layers = self.layers - self.full_layers
        return self.layers * mlp + self.full_layers * full + delta_layers * delta

    @property
    def parameters(self) -> int:
        heads = 1 if self.is_tied else 2
        return self.layer_parameters + heads * self.embedding_parameters + self.tower.parameters

    @property
    def language_parameters(self) -> int:
        return self.parameters - self.tower.parameters

    @property
    def kv_numbers(self) -> int:
        """Numbers of KV cache a token."""
        return 2 * self.full_layers * self.kv_heads * self.head_width

    @property
    def state_numbers(self) -> int:
        """Numbers of recurrent state a sequence."""
        return (self.layers - self.full_layers) * self.delta_state

    @property
    def state_bytes(self) -> int:
        """Bytes of one state slot of SGLang: recurrent in float32, a convolution's in 16 bits."""
        convolution = self.delta_taps * (2 * self.delta_keys + self.delta_values)
        return 4 * self.state_numbers + 2 * (self.layers - self.full_layers) * convolution

    def operations(self, tokens: float, mean_context: float) -> float:
        """Forward through the decoder layers, of tokens that attend to so many others."""
        attention = 4 * self.full_layers * self.heads * self.head_width * mean_context
        return tokens * (2 * self.layer_parameters + attention)

    def tree_operations(
        self, prompt: float, responses: float, response: float, prompts: int = 1
    ) -> float:
        """Forward through the decoder layers, of a prompt and the responses that go on from it.

        Args:
            prompt: tokens.
            responses: how many.
            response: tokens of each.
            prompts: how often the prompt is computed.
        """
        inside = self.operations(responses * response, prompt + response / 2)
        return prompts * self.operations(prompt, prompt / 2) + inside

    def objective_operations(self, rows: float) -> float:
        """Student's and teacher's logits, and the gradients of the student's states and head."""
        return 4 * 2 * self.embedding_parameters * rows

    def lora_parameters(self, rank: int) -> int:
        """Parameters of adapters on every linear layer of the decoder."""
        query, kv = self.heads * self.head_width, self.kv_heads * self.head_width
        gate = 2 if self.has_gate else 1
        full = (self.width + gate * query) + (query + self.width) + 2 * (self.width + kv)
        delta = (self.width + 2 * self.delta_keys + self.delta_values) + 2 * (
            self.width + self.delta_values
        )
        delta += 2 * (self.width + self.delta_heads)
        mlp = 3 * (self.width + self.mlp_width)
        others = self.layers - self.full_layers
        return rank * (self.layers * mlp + self.full_layers * full + others * delta)


def shape_of(path: str) -> ModelShape:
    """The shape of model.path: a folder with config.json, or a name whose size is known.

    Raises:
        ConfigError: neither.
    """
    file = Path(path) / "config.json"
    if file.is_file():
        try:
            return _from_config(json.loads(file.read_text(encoding="utf-8")), str(file))
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(
                f"model.path: {file} does not tell the size of an image-text model "
                f"({type(error).__name__}: {error}). Fix: name a folder of a model of the "
                f"{TITLES} family"
            ) from None
    name = path.rstrip("/").rsplit("/", 1)[-1]
    for known in sorted(KNOWN, key=len, reverse=True):
        if name == known or name.startswith(f"{known}-"):
            return KNOWN[known]
    raise ConfigError(
        f"model.path = {path!r} is no folder here and no model whose size is known "
        f"({', '.join(KNOWN)}). Fix: name a local folder with config.json"
    )


def _from_config(config: Mapping[str, Any], source: str) -> ModelShape:
    text, vision = config.get("text_config", config), config["vision_config"]
    family = find_family(config)
    if family is None:
        raise ValueError(f"model_type {config.get('model_type')!r} is of no family known here")
    tied = config.get("tie_word_embeddings", text.get("tie_word_embeddings", False))
    return _shape(family, text, vision, source, is_tied=bool(tied))


def _shape(
    family: Family,
    text: Mapping[str, Any],
    vision: Mapping[str, Any],
    source: str,
    *,
    is_tied: bool,
) -> ModelShape:
    layers = text["num_hidden_layers"]
    kinds = text.get("layer_types") or ["full_attention"] * layers
    keys = text.get("linear_num_key_heads", 0) * text.get("linear_key_head_dim", 0)
    value_heads = text.get("linear_num_value_heads", 0)
    value_width = text.get("linear_value_head_dim", 0)
    heads = text["num_attention_heads"]
    is_delta = "linear_attention" in kinds
    return ModelShape(
        source=source,
        width=text["hidden_size"],
        layers=layers,
        full_layers=sum(kind == "full_attention" for kind in kinds),
        heads=heads,
        kv_heads=text.get("num_key_value_heads") or heads,
        head_width=text.get("head_dim") or text["hidden_size"] // heads,
        mlp_width=text["intermediate_size"],
        vocabulary=text["vocab_size"],
        is_tied=is_tied,
        tower=_tower(family, vision),
        has_gate=family.gates_attention,
        has_norms_behind=family.has_norms_behind,
        delta_keys=keys if is_delta else 0,
        delta_values=value_heads * value_width if is_delta else 0,
        delta_state=value_heads * value_width * text.get("linear_key_head_dim", 0),
        delta_heads=value_heads if is_delta else 0,
        delta_taps=text.get("linear_conv_kernel_dim", 4) - 1,
    )


def _tower(family: Family, vision: Mapping[str, Any]) -> Tower:
    common = Tower(
        depth=vision["depth"],
        width=vision["hidden_size"],
        mlp_width=vision["intermediate_size"],
        patch=vision["patch_size"],
        merge=vision["spatial_merge_size"],
        output_width=vision["out_hidden_size"],
        patch_depth=vision.get("temporal_patch_size", 2),
    )
    return replace(common, **family.tower_sizes(vision))


KNOWN: Mapping[str, ModelShape] = {
    name: _shape(
        family, size.text, size.vision, size.source, is_tied=size.text["tie_word_embeddings"]
    )
    for family in FAMILIES.values()
    for name, size in family.published.items()
}
