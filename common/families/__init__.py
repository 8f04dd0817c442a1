"""Model families: what differs from one to the next, a file each, and all else has no name for one.

    family      what a family offers
    qwen        what the Qwen families have in common
    qwen2_5_vl, qwen3_vl, qwen3_5, glm4v    the families

    FAMILIES[config.json's model_type] -> Family     by whom it is read
      placeholder, vision_tokens                     common.rendering
      has_glm_grid                                   common.picture_grid
      float32                                        common.weight_dtypes
      served                                         common.served_names
      sglang_cpu                                     common.engines.sglang
      layer_kinds, fused, has_norms_behind           learner.model
      published, gates_attention, tower_sizes        deploy.planning.shape

A family cannot rename the parts of a model: the learner reaches them as `visual`, `blocks` and
`language_model` (`common.image_text_model`), in student, sharding, lora, vision and last_layer of
`learner.model`. One with other names is refused at its start, and needs that changed first.

A family imports neither torch nor transformers, because the launcher and the broker's checks read
it too. Where it needs a way to compute, it names one that the learner has: a kind of decoder layer
(`learner.model.delta_net` for "linear_attention"), a fused form (`learner.model.fused`).

Invariant: the learner computes what transformers computes, and a server holds the bytes that the
learner says it holds. Every family's tiny random checkpoint is held to both by the tests below.

To add one:

1. Write common/families/NAME.py with a `Family`, and put it into `FAMILIES` here.
2. Add a tiny configuration of it to tests/tiny_model.py (`PATCH_SIZES`, `_CONFIGS`; a processor,
   if it is not Qwen's). Every test that takes `FAMILIES` from there then runs with it.
3. Let the tests tell what is missing, in this order:
   tests/common/test_families.py                what a family declares is there in transformers
   tests/common/test_{patching,prompt_lengths,model_loading}.py    pixels, prompts, files
   tests/learner/model/{test_packing,test_sharding,test_lora}.py   log-probs, ranks, adapters
   tests/learner/{test_loading,test_trainer_ranks,test_export}.py  a start, a step, an export
   tests/rollout/contract/test_families.py      log-probs, pushes and checksums of an engine;
                                                with `-m sglang` of the real SGLang
   tests/deploy/planning/test_shape.py          the planner's count of parameters (`-m slow`)

What is asked of the model's class in transformers: `common.image_text_model`. LoRA adapts
every `nn.Linear` of the decoder's layers, and names of a push lose "model.language_model." and
"model.visual." for "model." and "visual."; a family declares neither.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.errors import ConfigError
from common.families.family import Family
from common.families.glm4v import GLM4V
from common.families.qwen2_5_vl import QWEN2_5_VL
from common.families.qwen3_5 import QWEN3_5
from common.families.qwen3_vl import QWEN3_VL
from common.files import json_object_or_empty

FAMILIES: Mapping[str, Family] = {
    family.model_type: family for family in (QWEN3_5, QWEN3_VL, QWEN2_5_VL, GLM4V)
}
_TITLES = [family.title for family in FAMILIES.values()]
TITLES = f"{', '.join(_TITLES[:-1])} or {_TITLES[-1]}"  # for messages


def family_named(model_type: object, where: str = "model.path") -> Family:
    """The family of a config.json's `model_type`.

    Args:
        where: how the message calls the model: key of the configuration, and value.

    Raises:
        ConfigError: there is no such family.
    """
    if found := FAMILIES.get(str(model_type)):
        return found
    raise ConfigError(
        f"{where} cannot be loaded: its model_type {str(model_type)!r} in config.json is of no "
        f"family that is known here ({', '.join(FAMILIES)}). Fix: choose a model of the {TITLES} "
        "family, or add the family as common/families/__init__.py says"
    )


def find_family(config: Mapping[str, Any]) -> Family | None:
    """The family of a config.json, or of its text part alone; None for one that is unknown."""
    text = config.get("text_config")
    kinds = [config.get("model_type"), text.get("model_type") if isinstance(text, dict) else None]
    names = [str(kind).removesuffix("_text") for kind in kinds]
    return next((FAMILIES[name] for name in names if name in FAMILIES), None)


def family_of_folder(path: str | Path) -> Family | None:
    """The family of a model's folder; None for a name on the hub, or one that is unknown."""
    return find_family(json_object_or_empty(Path(path) / "config.json"))
