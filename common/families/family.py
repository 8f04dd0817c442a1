"""What a model family offers. `common.families` says who reads it, and how to add one."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

FusedForm = Literal["norm", "zero_centred_norm", "gated_norm", "gate"]
"""RMS norm; RMS norm that multiplies by 1 + weight; RMS norm times a gate; MLP with a SiLU gate."""


@dataclass(frozen=True)
class Float32Names:
    """Weights that stay float32 where all others are bfloat16, by the ends of their names.

    Ends of one family must not mean another weight in another family.
    """

    served: tuple[str, ...] = ()  # a server holds it so, whatever its --dtype
    computed: tuple[str, ...] = ()  # the learner's passes take it so
    stored: tuple[str, ...] = ()  # published files hold it so


FUSED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
VISION_QKV = (r"^(visual\..*\.attn)\.qkv\.", r"\1.qkv_proj.")


@dataclass(frozen=True)
class ServedNames:
    """How SGLang holds the tensors that it takes under their pushed names.

    Args:
        fused: SGLang's part of a name -> the parts of pushed names whose bytes, one after the
            other, it is.
        renamed: (pattern, replacement) in a pushed name, before parts are fused.
        left_out: pattern of served names whose bytes SGLang changes (padding inside). None means
            that it changes none.
        vocabularies: served names that get rows of zeros behind them.
    """

    fused: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: FUSED)
    renamed: tuple[tuple[str, str], ...] = (VISION_QKV,)
    left_out: str | None = None
    vocabularies: tuple[str, ...] = ("model.embed_tokens.weight", "lm_head.weight")


@dataclass(frozen=True)
class SglangOnCpu:
    """What SGLang needs on a machine without a GPU."""

    flags: Mapping[str, str] = field(default_factory=dict)
    switches: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Published:
    """A published size: the parts of its config.json that its parameters follow from."""

    source: str
    text: Mapping[str, Any]
    vision: Mapping[str, Any]


def _none_of_its_own(_: Mapping[str, Any]) -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class Family:
    """One model family, of one class in transformers and one in SGLang.

    Args:
        model_type: of config.json; its text part has "_text" behind it.
        title: how people call it.
        placeholder: the token in a prompt that an image's tokens take the place of.
        vision_tokens: those that a response never holds, the placeholder among them.
        layer_kinds: kinds of decoder layers.
        fused: names of transformers' classes -> the form that fla's kernels have of them.
        published: sizes that the planner knows by the name of the model.
        has_norms_behind: a decoder layer's attention and MLP have a norm behind them, too.
        has_glm_grid: pictures get the sizes of GLM-V's image processor, not of Qwen's.
        gates_attention: queries come with a gate of the same size.
        tower_sizes: from vision_config to what `deploy.planning.shape.Tower` must be told of this
            family's vision tower beyond the fields that all have.
    """

    model_type: str
    title: str
    placeholder: str
    vision_tokens: tuple[str, ...]
    fused: Mapping[str, FusedForm]
    served: ServedNames = ServedNames()
    layer_kinds: tuple[Literal["full_attention", "linear_attention"], ...] = ("full_attention",)
    float32: Float32Names = Float32Names()
    sglang_cpu: SglangOnCpu = SglangOnCpu()
    published: Mapping[str, Published] = field(default_factory=dict)
    has_norms_behind: bool = False
    has_glm_grid: bool = False
    gates_attention: bool = False
    tower_sizes: Callable[[Mapping[str, Any]], Mapping[str, Any]] = _none_of_its_own
