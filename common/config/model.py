"""Sections of the model, and of how a question becomes its prompt."""

import math
from pathlib import Path
from typing import Literal

from pydantic import Field

from common.section import Section


class ModelSection(Section):
    path: str = Field("Qwen/Qwen3.5-4B", description="Hugging Face folder or name of the start.")
    revision: str | None = Field(
        None,
        min_length=1,
        description="Commit, branch or tag of a name on the hub; none: its main.",
    )
    dtype: Literal["bfloat16", "float32"] = Field(
        "bfloat16", description="Compute dtype of student and teacher; masters are float32."
    )
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2"] = Field(
        "auto", description="Attention kernel of the vision tower; auto: flash-attn if installed."
    )
    share_prefix: bool = Field(
        True, description="Compute a group's image and question once for all its responses."
    )
    gradient_checkpointing: bool | float = Field(
        True,
        ge=0,
        le=1,
        description="Recompute activations in the backward pass, which saves memory; a number: in "
        "that share of the layers.",
    )
    freeze_vision_tower: bool = Field(False, description="Do not train the vision tower.")
    lora_rank: int = Field(
        0, ge=0, description="Rank of low-rank adapters of the language model; 0 trains all of it."
    )
    lora_alpha: float = Field(32.0, gt=0, description="Adapters are scaled by alpha / rank.")
    max_prompt_tokens: int = Field(8192, gt=0, description="Tokens; longer prompts are refused.")

    def num_recomputed(self, layers: int) -> int:
        """Number of recomputed layers among the first `layers` of a stack, rounded down."""
        return math.floor(layers * float(self.gradient_checkpointing) + 1e-9)

    def recomputes(self, layer: int) -> bool:
        """Tell whether a layer, counted from 0, is computed anew in the backward pass."""
        return self.num_recomputed(layer + 1) > self.num_recomputed(layer)


class PromptSection(Section):
    """Rules that make a question a prompt, for rollout, learner, serving and export alike."""

    thinking: bool = Field(
        False,
        description="Let the model think before it answers. As published it does not; a template "
        "that opens a think block all the same is refused.",
    )
    chat_template: Path | None = Field(
        None, description="Jinja file in place of the checkpoint's own chat template."
    )
