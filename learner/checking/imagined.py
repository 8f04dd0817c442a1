"""The hot path on an imagined GPU: torch's fake CUDA tensors, which have shapes but no contents.

Everything must stay on that GPU, and nothing may ask it for a value: each such question is a wait
of the host. Only forward passes: torch's backward pass asks for a real device. A torch that is
built without CUDA cannot imagine one.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from common.config import ModelSection, ObjectiveSection
from common.image_text_model import ImageTextModel
from learner.checking.findings import Finding, outcome_of
from learner.checking.launches import Launches
from learner.checking.shapes import ModelSize, make_model, qwen3_5_4b, tenth_of_4b
from learner.checking.sizes import BRANCHES, Size
from learner.model import fla_kernels
from learner.model.layout import Layout, plan_layout
from learner.model.student import prepare_to_train
from learner.objective.head import HeadInputs
from learner.objective.loss import objective
from learner.objective.tokens import ResponseTokens, SamplingLaw

_LAYERS = 4  # three gated delta nets, and one of attention
_WAITS = {"_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select", "_unique2"}


def check_plan(size: Size, is_small: bool) -> Iterator[Finding]:
    """Decoder layers and objective over one group; delta nets are computed by the reference."""
    if not torch.backends.cuda.is_built():  # type: ignore[no-untyped-call]
        remark = "this torch is built without CUDA: it cannot imagine a GPU"
        yield Finding("plan", "imagined GPU", "skipped", remark=remark)
        return
    fla_kernels.run_on = lambda tensor: False  # Triton takes no imagined tensors
    of_model = tenth_of_4b(_LAYERS, size.vocabulary) if is_small else qwen3_5_4b(_LAYERS)
    yield from on_imagined(torch.device("cuda", 0), of_model, size)


def on_imagined(device: torch.device, of_model: ModelSize, size: Size) -> Iterator[Finding]:
    """What decoder and objective do on a device that is not there."""
    meta = torch.device("meta")
    model = prepare_to_train(make_model("qwen3_5", of_model, meta), ModelSection(), meta)
    model.to(torch.bfloat16)
    layout = plan_layout([(size.root, (size.branch,) * BRANCHES)])
    with FakeTensorMode(allow_non_fake_inputs=True):
        become_fake(model, device)
        decoder = _decoder(model, layout.to(device), device)
        parts = {"decoder": decoder, "objective": _objective(size, device)}
        for name, compute in parts.items():
            yield observed(f"{name} on an imagined GPU", device, compute)


def become_fake(model: nn.Module, device: torch.device) -> None:
    """In a FakeTensorMode: parameters and buffers without contents in the place of its own."""
    made: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, own in module._parameters.items():
            if own is not None and id(own) not in made:
                fake = torch.empty(own.shape, dtype=own.dtype, device=device)
                made[id(own)] = nn.Parameter(fake, requires_grad=own.requires_grad)
            if own is not None:
                module._parameters[name] = made[id(own)]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device=device)


def observed(name: str, device: torch.device, compute: Callable[[], object]) -> Finding:
    """Whether a computation asks its device for no value and makes tensors nowhere else."""
    with Launches() as launches:
        compute()
    waits, elsewhere = launches.names & _WAITS, launches.devices - {device.type}
    problems = [f"waits: {', '.join(sorted(waits))}"] if waits else []
    problems += [f"tensors on {', '.join(sorted(elsewhere))}"] if elsewhere else []
    figures = {"operators": launches.count}
    return Finding("plan", name, outcome_of(not problems), figures, "; ".join(problems))


def _decoder(model: ImageTextModel, layout: Layout, device: torch.device) -> Callable[[], object]:
    shape = (1, layout.num_tokens, model.config.get_text_config().hidden_size)
    embedded = torch.empty(shape, dtype=torch.bfloat16, device=device, requires_grad=True)
    positions = torch.zeros(3, 1, layout.num_tokens, dtype=torch.int64, device=device)
    return lambda: model.base_model.language_model(
        inputs_embeds=embedded, position_ids=positions, use_cache=False, layout=layout
    )


def _objective(size: Size, device: torch.device) -> Callable[[], object]:
    rows = size.branch * BRANCHES

    def made(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=device)

    weight_VD = made(size.vocabulary, size.hidden).requires_grad_()
    student = HeadInputs(made(rows, size.hidden).requires_grad_(), weight_VD)
    teacher = HeadInputs(made(rows, size.hidden), weight_VD.detach())
    values_T = made(rows, dtype=torch.float32)
    responses = ResponseTokens(made(rows, dtype=torch.int64), values_T, values_T)
    law = SamplingLaw(1.0, made(0, dtype=torch.int64))
    return lambda: objective(student, ((1.0, teacher),), responses, ObjectiveSection(), law)
