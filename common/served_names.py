"""How SGLang names a model's weights, and the checksum that it gives them.

SGLang fuses some tensors of a transformers model: q, k and v become one, gate and up become one.
`/weights_checker` answers with a checksum of each of SGLang's own tensors. The rules here say which
bytes stand behind each, so that a learner can tell whether a server holds the learner's weights.
They are those of SGLang 0.5.23 for Qwen3-VL, Qwen2.5-VL and Qwen3.5 (the dense ones), where one
rank holds the whole model (tensor-parallel size 1).

Not in the mapping: what SGLang derives or keeps beside the weights (`gemma_weight`, `axis_map`),
and the gated MLP of Qwen2.5-VL's vision blocks, whose parts SGLang pads before it joins them.
"""

import hashlib
import re
from collections.abc import Iterable

VOCABULARY_MULTIPLE = 64  # SGLang pads vocabularies with rows of zeros to a multiple of this

# SGLang's tensor: its parts, in the order of their bytes. All are concatenated, none interleaved.
_FUSED = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "gate_up_proj": ("gate_proj", "up_proj"),
    "in_proj_qkvz": ("in_proj_qkv", "in_proj_z"),  # the gated delta net of Qwen3.5
    "in_proj_ba": ("in_proj_b", "in_proj_a"),
}
_WHOLE = {part: whole for whole, parts in _FUSED.items() for part in parts}
_PART = re.compile(rf"\.({'|'.join(_WHOLE)})(?=\.)")
_PUSHED = (
    (re.compile(r"^model\.language_model\."), "model."),
    (re.compile(r"^model\.visual\."), "visual."),
)
_VISION_QKV = re.compile(r"^(visual\..*\.attn)\.qkv\.")
_PADDED_INSIDE = re.compile(r"^visual\..*\.mlp\.(gate_up_proj\.|down_proj\.weight)")
_VOCABULARIES = ("model.embed_tokens.weight", "lm_head.weight", "visual.pos_embed.weight")
# A model with linear attention keeps the other layers' attention without a name of its own.
_LINEAR_ATTENTION = ".linear_attn."
_SELF_ATTENTION = re.compile(r"^(model\.layers\.\d+)\.self_attn\.")


def served_tensors(
    names: Iterable[str], *, has_tied_head: bool = False
) -> dict[str, tuple[str, ...]]:
    """SGLang's name of each tensor -> the state_dict names whose bytes, one after the other, it is.

    A vocabulary has `padding_rows` behind them.

    Args:
        names: of a transformers state_dict, the whole of it.
        has_tied_head: the head is the embedding; SGLang then serves one tensor for both.
    """
    given = [name for name in names if not (has_tied_head and name == "lm_head.weight")]
    is_hybrid = any(_LINEAR_ATTENTION in name for name in given)
    parts: dict[str, list[str]] = {}
    for name in given:
        served = _served_name(name, is_hybrid)
        if not _PADDED_INSIDE.match(served):
            parts.setdefault(served, []).append(name)
    return {served: tuple(sorted(found, key=_order)) for served, found in parts.items()}


def pushed_name(name: str) -> str:
    """The name under which SGLang takes a tensor of a state_dict in a weight update.

    Every family takes this one; Qwen2.5-VL refuses transformers' own, or passes over it.
    """
    for pattern, replacement in _PUSHED:
        name = pattern.sub(replacement, name)
    return name


def padding_rows(served: str, num_rows: int) -> int:
    """Rows of zeros that SGLang puts behind a tensor of `num_rows` rows, by the served name."""
    return -num_rows % VOCABULARY_MULTIPLE if served in _VOCABULARIES else 0


def checksum(parts: Iterable[bytes | memoryview]) -> str:
    """What SGLang on a CPU answers for a tensor with these bytes: 16 hex digits.

    It is the beginning of their sha256. On a GPU SGLang hashes otherwise.
    """
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:16]


def _served_name(name: str, is_hybrid: bool) -> str:
    name = _VISION_QKV.sub(r"\1.qkv_proj.", pushed_name(name))
    if is_hybrid:
        name = _SELF_ATTENTION.sub(r"\1.", name)
    return _PART.sub(lambda match: "." + _WHOLE[match[1]], name)


def _order(name: str) -> int:
    """Where a part stands in its whole."""
    found = _PART.search(name)
    return _FUSED[_WHOLE[found[1]]].index(found[1]) if found else 0
