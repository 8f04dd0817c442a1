"""Served names and checksums. That the real SGLang agrees is a test of the rollout contract."""

import hashlib

import pytest

from common.families.glm4v import GLM4V
from common.families.qwen2_5_vl import QWEN2_5_VL
from common.families.qwen3_5 import QWEN3_5
from common.families.qwen3_vl import QWEN3_VL
from common.served_names import checksum, padding_rows, pushed_name, served_tensors

LAYER = "model.language_model.layers.7"


def fused(served: str, *parts: str, others: tuple[str, ...] = (), family=QWEN3_VL) -> None:
    """The parts are given backwards: their order must not depend on the state_dict's."""
    assert served_tensors([*others, *reversed(parts)], family)[served] == parts


@pytest.mark.parametrize("kind", ["weight", "bias"])
def test_attention_and_mlp_are_fused_in_sglangs_order(kind):
    attention = [f"{LAYER}.self_attn.{part}_proj.{kind}" for part in "qkv"]
    fused(f"model.layers.7.self_attn.qkv_proj.{kind}", *attention)
    mlp = [f"{LAYER}.mlp.{part}_proj.{kind}" for part in ("gate", "up")]
    fused(f"model.layers.7.mlp.gate_up_proj.{kind}", *mlp)


def test_the_gated_delta_net_is_fused_and_takes_the_name_of_attention_away():
    net = f"{LAYER}.linear_attn"
    served = "model.layers.7.linear_attn"
    qkvz, ba = (
        [f"{net}.in_proj_{part}.weight" for part in parts] for parts in (("qkv", "z"), ("b", "a"))
    )
    fused(f"{served}.in_proj_qkvz.weight", *qkvz, family=QWEN3_5)
    fused(f"{served}.in_proj_ba.weight", *ba, family=QWEN3_5)
    parts = [f"model.language_model.layers.3.self_attn.{part}_proj.weight" for part in "qkv"]
    fused("model.layers.3.qkv_proj.weight", *parts, others=(f"{net}.A_log",), family=QWEN3_5)
    names = [f"{net}.A_log", "model.language_model.layers.3.self_attn.q_norm.weight"]
    found = list(served_tensors(names, QWEN3_5))
    assert found == [f"{served}.A_log", "model.layers.3.q_norm.weight"]


@pytest.mark.parametrize(
    ("name", "served"),
    [
        ("model.visual.blocks.0.attn.qkv.bias", "visual.blocks.0.attn.qkv_proj.bias"),
        ("model.visual.blocks.0.attn.proj.weight", "visual.blocks.0.attn.proj.weight"),
        ("model.visual.blocks.0.mlp.linear_fc1.weight", "visual.blocks.0.mlp.linear_fc1.weight"),
        ("model.visual.merger.norm.bias", "visual.merger.norm.bias"),
        (f"{LAYER}.self_attn.o_proj.weight", "model.layers.7.self_attn.o_proj.weight"),
        (f"{LAYER}.mlp.down_proj.weight", "model.layers.7.mlp.down_proj.weight"),
        ("model.language_model.norm.weight", "model.norm.weight"),
        ("lm_head.weight", "lm_head.weight"),
    ],
)
def test_the_rest_is_renamed(name, served):
    assert served_tensors([name], QWEN3_VL) == {served: (name,)}


def test_pushed_names_are_those_of_a_checkpoint_on_disk():
    assert pushed_name("model.visual.blocks.0.attn.qkv.bias") == "visual.blocks.0.attn.qkv.bias"
    assert pushed_name(f"{LAYER}.self_attn.q_proj.bias") == "model.layers.7.self_attn.q_proj.bias"
    assert pushed_name("lm_head.weight") == "lm_head.weight"
    assert pushed_name(pushed_name(f"{LAYER}.norm.weight")) == "model.layers.7.norm.weight"


def test_a_tied_head_is_served_as_the_embedding():
    names = ["model.language_model.embed_tokens.weight", "lm_head.weight"]
    assert len(served_tensors(names, QWEN3_VL)) == 2
    tied = served_tensors(names, QWEN3_VL, has_tied_head=True)
    assert list(tied) == ["model.embed_tokens.weight"]


def test_what_sglang_pads_inside_is_left_out():
    block = "model.visual.blocks.0.mlp"
    names = [f"{block}.{part}_proj.{kind}" for part in ("gate", "up", "down") for kind in
             ("weight", "bias")]  # fmt: skip
    assert list(served_tensors(names, QWEN2_5_VL)) == ["visual.blocks.0.mlp.down_proj.bias"]


def test_glms_gated_mlps_are_fused_in_the_tower_and_whole_in_the_decoder():
    block = "visual.blocks.0.mlp"
    parts = [f"model.{block}.{part}_proj.weight" for part in ("gate", "up")]
    fused(f"{block}.gate_up_proj.weight", *parts, family=GLM4V)
    name = f"{LAYER}.mlp.gate_up_proj.weight"
    assert served_tensors([name], GLM4V) == {"model.layers.7.mlp.gate_up_proj.weight": (name,)}


def test_vocabularies_end_on_a_multiple_of_64_rows():
    assert padding_rows("model.embed_tokens.weight", 28) == 36
    assert padding_rows("lm_head.weight", 151936) == 0
    assert padding_rows("model.norm.weight", 28) == 0


def test_checksum_is_of_all_bytes_in_order():
    assert checksum([b"ab", memoryview(b"c")]) == hashlib.sha256(b"abc").hexdigest()[:16]
