"""The size of a model: parameters, operations a token, bytes of cache. From config.json, or known.

Counted are matrices (norms and biases are some hundredths of a percent) and, for operations, the
products of attention. N parameters cost 2 N operations a token, forward.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import ConfigError

_MEMORY = "its config.json on the Hugging Face hub, as remembered when this was written"
_TITAN = "pytorch/torchtitan, experiments/qwen3_vl"
_DEFAULT = "defaults of transformers' Qwen3_5TextConfig and Qwen3_5VisionConfig"


@dataclass(frozen=True)
class Tower:
    """The size of a vision tower."""

    depth: int
    width: int
    mlp_width: int
    patch: int  # pixels on a side
    merge: int  # patches on a side that become one token
    output_width: int
    mergers: int  # MLPs behind the last block and, with DeepStack, behind others
    is_gated: bool = False  # whether an MLP has three matrices, as in Qwen2.5-VL
    patch_depth: int = 2
    positions: int = 0  # learnt position embeddings

    @property
    def block_parameters(self) -> int:
        mlp = (3 if self.is_gated else 2) * self.width * self.mlp_width
        return self.depth * (4 * self.width**2 + mlp)

    @property
    def parameters(self) -> int:
        merged = self.width * self.merge**2
        mergers = self.mergers * (merged**2 + merged * self.output_width)
        pixels = 3 * self.patch_depth * self.patch**2
        return self.block_parameters + mergers + (pixels + self.positions) * self.width

    def operations(self, image_tokens: float) -> float:
        """Forward, of one image. Every patch attends to every other one."""
        patches = image_tokens * self.merge**2
        merged = self.width * self.merge**2
        mergers = 2 * self.mergers * (merged**2 + merged * self.output_width) * image_tokens
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


def _known(source: str, tower: Tower, **text: Any) -> ModelShape:
    return ModelShape(source=source, tower=tower, **text)


def _qwen3(width: int, layers: int, heads: int, mlp_width: int, is_tied: bool) -> dict[str, Any]:
    return {
        "width": width, "layers": layers, "full_layers": layers, "heads": heads, "kv_heads": 8,
        "head_width": 128, "mlp_width": mlp_width, "vocabulary": 151936, "is_tied": is_tied,
    }  # fmt: skip


def _qwen35(width: int, mlp_width: int, is_tied: bool) -> dict[str, Any]:
    return {
        "width": width, "layers": 32, "full_layers": 8, "heads": 16, "kv_heads": 4,
        "head_width": 256, "mlp_width": mlp_width, "vocabulary": 248320, "is_tied": is_tied,
        "has_gate": True, "delta_keys": 2048, "delta_values": 4096, "delta_state": 32 * 128 * 128,
        "delta_heads": 32,
    }  # fmt: skip


def _tower(depth: int, width: int, mlp_width: int, output_width: int, mergers: int) -> Tower:
    return Tower(depth, width, mlp_width, 16, 2, output_width, mergers, positions=2304)


KNOWN: Mapping[str, ModelShape] = {
    "Qwen3.5-4B": _known(_MEMORY, _tower(24, 1024, 4096, 2560, 1), **_qwen35(2560, 9216, True)),
    "Qwen3.5-9B": _known(_DEFAULT, _tower(27, 1152, 4304, 4096, 1), **_qwen35(4096, 12288, False)),
    "Qwen3-VL-2B": _known(
        _TITAN, _tower(24, 1024, 4096, 2048, 4), **_qwen3(2048, 28, 16, 6144, True)
    ),
    "Qwen3-VL-4B": _known(
        _MEMORY, _tower(24, 1024, 4096, 2560, 4), **_qwen3(2560, 36, 32, 9728, True)
    ),
    "Qwen3-VL-8B": _known(
        _TITAN, _tower(27, 1152, 4304, 4096, 4), **_qwen3(4096, 36, 32, 12288, False)
    ),
}


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
                f"({type(error).__name__}: {error}). Fix: name a folder of the Qwen-VL family"
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
        is_tied=bool(config.get("tie_word_embeddings", text.get("tie_word_embeddings", False))),
        tower=_tower_from(vision),
        has_gate=is_delta,
        delta_keys=keys if is_delta else 0,
        delta_values=value_heads * value_width if is_delta else 0,
        delta_state=value_heads * value_width * text.get("linear_key_head_dim", 0),
        delta_heads=value_heads if is_delta else 0,
        delta_taps=text.get("linear_conv_kernel_dim", 4) - 1,
    )


def _tower_from(vision: Mapping[str, Any]) -> Tower:
    return Tower(
        depth=vision["depth"],
        width=vision["hidden_size"],
        mlp_width=vision["intermediate_size"],
        patch=vision["patch_size"],
        merge=vision["spatial_merge_size"],
        output_width=vision["out_hidden_size"],
        mergers=1 + len(vision.get("deepstack_visual_indexes") or ()),
        is_gated="fullatt_block_indexes" in vision,
        patch_depth=vision.get("temporal_patch_size", 2),
        positions=vision.get("num_position_embeddings", 0),
    )
