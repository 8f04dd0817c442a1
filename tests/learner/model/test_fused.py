"""Which modules have a fused form, and that CPUs compute as transformers does."""

import importlib
import inspect

import pytest
import torch
from torch import nn

import common.torchvision_compat  # noqa: F401  (must come before transformers)
from learner.model.fused import FORMS, fuse
from tests.tiny_model import FAMILIES


@pytest.mark.parametrize("family", FAMILIES)
def test_every_norm_and_gate_of_a_family_has_a_fused_form(family: str):
    file = importlib.import_module(f"transformers.models.{family}.modeling_{family}")
    modules = [kind for kind in vars(file).values() if inspect.isclass(kind)]
    modules = [kind for kind in modules if issubclass(kind, nn.Module)]
    norms = {kind.__name__ for kind in modules if "RMSNorm" in kind.__name__}
    # A merger that is more than its gate keeps transformers' way.
    modules = [kind for kind in modules if not kind.__name__.endswith("PatchMerger")]
    gates = {k.__name__ for k in modules if "self.act_fn(self.gate_proj" in inspect.getsource(k)}
    assert norms and gates and norms | gates <= FORMS.keys()


def test_on_a_cpu_a_bound_module_computes_as_before_under_its_own_names():
    from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5RMSNorm

    model = nn.ModuleDict({"norm": Qwen3_5RMSNorm(8)})
    model["norm"].weight.data.normal_()
    hidden = torch.randn(2, 3, 8)
    expected = model["norm"](hidden)
    fuse(model)
    assert type(model["norm"]) is not Qwen3_5RMSNorm and isinstance(model["norm"], Qwen3_5RMSNorm)
    assert torch.equal(model["norm"](hidden), expected) and list(model.state_dict()) == [
        "norm.weight"
    ]
    assert type(model["norm"]).__name__ == "Qwen3_5RMSNorm"


def test_a_gate_that_is_no_silu_keeps_its_own():
    from transformers import Qwen3_5TextConfig
    from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5MLP

    config = Qwen3_5TextConfig(hidden_size=8, hidden_act="gelu")
    model = nn.ModuleDict({"one": Qwen3_5MLP(config, 4)})
    fuse(model)
    assert type(model["one"]) is Qwen3_5MLP
