#!/usr/bin/env python3
"""What does a micro-batch's decoder launch, and where does the host wait, beside an older commit?

    .venv/bin/python tests/bench/launches.py [--base COMMIT] [--json FILE]

Counted, not timed, in a process for each side: that of the commit (`git archive`, a temporary
folder) and of this working tree.

    launches   operators that are no views, of some decoder layers at their published widths over
               one published group, recomputed, on the meta device; attention is one operator, as
               on a GPU; the gated delta net is transformers' reference on both sides, as it is
               where flash-linear-attention is not installed
    waits      where the host would wait for a GPU in a student's forward and backward pass, on a
               CPU with a small model (`tests/learner/device_waits.py`)
"""

import argparse
import importlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = os.environ.get("LAUNCHES_BENCH_TREE", str(ROOT))

BASE = "5a52a04"
SIDES = ("theirs", "ours")
CASES = (("Qwen3-VL-4B", "qwen3_vl", 2), ("Qwen3.5-4B", "qwen3_5", 4))  # with decoder layers
_GROUP = (3400, [169] * 8)  # tokens of a prompt and its responses
_LIMIT_S = 900.0
_MODULES: dict[str, ModuleType] = {}
_LIBRARIES: list[Any] = []  # what torch registers goes with them


def main(argv: list[str] | None = None) -> int:
    options = parse(argv)
    if options.side:
        print(json.dumps(count(json.loads(sys.stdin.read()))))
        return 0
    asked = json.dumps([case(*names) for names in CASES if names[0] in options.models])
    with tempfile.TemporaryDirectory(prefix="launches-") as name:
        extract(options.base, Path(name))
        trees = dict(zip(SIDES, (Path(name), ROOT), strict=True))
        found = {side: run_side(tree, asked) for side, tree in trees.items()}
    show(found)
    if options.json is not None:
        document = {"base": options.base, **found}
        options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return 0


def case(name: str, family: str, layers: int) -> dict[str, Any]:
    """What a side is asked to count: both models by their configurations."""
    from learner.checking.shapes import make_model, tenth_of_4b
    from tests.deploy.planning.models_at_size import MODELS

    at_size = make_model(family, replace(MODELS[name][1], layers=layers), "meta")
    small = make_model(family, tenth_of_4b(layers, 512), "meta")
    return {
        "name": name,
        "layers": layers,
        "at_size": at_size.config.to_dict(),
        "small": small.config.to_dict(),
    }


def extract(commit: str, folder: Path) -> None:
    archive = subprocess.run(
        ["git", "archive", commit], cwd=ROOT, stdout=subprocess.PIPE, check=True
    )
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive.stdout, check=True)


def run_side(tree: Path, asked: str) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, str(Path(__file__)), "--side"], input=asked, cwd=tree, text=True,
        env={**os.environ, "LAUNCHES_BENCH_TREE": str(tree), "PYTHONPATH": ""},
        stdout=subprocess.PIPE, check=True, timeout=_LIMIT_S,
    )  # fmt: skip
    found: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return found


def show(found: dict[str, list[dict[str, Any]]]) -> None:
    print(f"{'':<26}{'theirs':>10}{'ours':>10}")
    for theirs, ours in zip(*(found[side] for side in SIDES), strict=True):
        for key in ("forward", "backward", "waits"):
            label = f"{theirs['name']}, {theirs['layers']} layers, {key}"
            print(f"{label:<36}{theirs[key]:>8,}{ours[key]:>8,}")


# ---- one side ------------------------------------------------------------------------------------
def count(cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    import common.torchvision_compat  # noqa: F401  (must come before transformers)

    return [
        {
            "name": asked["name"],
            "layers": asked["layers"],
            **launches(asked["at_size"]),
            **host_waits(asked["small"]),
        }
        for asked in cases
    ]


def launches(config: dict[str, Any]) -> dict[str, int]:
    import torch
    from torch.nn import functional

    from learner.model.layout import plan_layout

    meta = torch.device("meta")
    attend, functional.scaled_dot_product_attention = (
        functional.scaled_dot_product_attention, _one_kernel,
    )  # fmt: skip
    model = _prepared(config, meta).to(torch.bfloat16)
    width, tokens = model.config.get_text_config().hidden_size, _GROUP[0] + sum(_GROUP[1])
    layout = plan_layout([_GROUP]).to(meta)
    embedded = torch.empty(1, tokens, width, device=meta, dtype=torch.bfloat16, requires_grad=True)
    positions = torch.zeros(3, 1, tokens, device=meta, dtype=torch.int64)
    with _here("learner/checking/launches.py").Launches() as counting:
        hidden = model.base_model.language_model(
            inputs_embeds=embedded, position_ids=positions, use_cache=False, layout=layout
        ).last_hidden_state
        forward = counting.count
        hidden.sum().backward()
    functional.scaled_dot_product_attention = attend
    return {"forward": forward, "backward": counting.count - forward}


def _one_kernel(
    query: Any, key: Any, value: Any, attn_mask: Any = None, dropout_p: float = 0.0,
    is_causal: bool = False, scale: float | None = None, **_: Any,
) -> Any:  # fmt: skip
    """Attention as a GPU has it; on the meta device torch would take it apart."""
    import torch

    if attn_mask is None:
        flash = torch.ops.aten._scaled_dot_product_flash_attention
        return flash(query, key, value, dropout_p, is_causal, scale=scale)[0]
    if attn_mask.dtype == torch.bool:
        attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill(
            ~attn_mask, -torch.inf
        )
    attn_mask = attn_mask.expand(*query.shape[:2], *attn_mask.shape[2:])
    efficient = torch.ops.aten._scaled_dot_product_efficient_attention
    return efficient(query, key, value, attn_mask, True, dropout_p, is_causal, scale=scale)[0]


def host_waits(config: dict[str, Any]) -> dict[str, Any]:
    import torch

    from learner.model.packing import pack
    from learner.model.student import response_hidden_states

    batches, lengths = _helpers()
    cpu = torch.device("cpu")
    model = _prepared(config, cpu)
    # Of one picture torch makes tensors on the way that no longer tell whose they are.
    groups = batches.make_batch(1, 2, lengths.scaled_lengths(96), model, 512).groups
    row = pack([group.student for group in groups], [group.responses for group in groups]).to(cpu)
    device_waits = _here("tests/learner/device_waits.py")
    _take_the_way_of_gpus()
    if hasattr(row, "grid_thw_on_host"):
        row = replace(row, grid_thw_on_host=device_waits.on_host(row.grid_thw_on_host))
    with device_waits.DeviceWaits() as waits:
        response_hidden_states(model, row, torch.float32).square().sum().backward()
    return {"waits": waits.counts.total(), "waits_by_operator": dict(waits.counts)}


def _prepared(config: dict[str, Any], device: Any) -> Any:
    import torch
    import transformers

    from common.config import ModelSection
    from learner.model.student import prepare_to_train

    of_model = transformers.AutoConfig.for_model(**config)
    with device:
        model = transformers.AutoModelForImageTextToText.from_config(of_model, dtype=torch.float32)
    return prepare_to_train(model, ModelSection(gradient_checkpointing=True), device)


def _take_the_way_of_gpus() -> None:
    """Take attention's way on GPUs: each side has another one for CPUs."""
    import torch

    from learner.model import tree_attention

    if hasattr(tree_attention, "_masked"):
        tree_attention._merged = tree_attention._masked
        return
    from learner.model.ragged_attention import RaggedFlash

    tree_attention.kernels_for = lambda tensor: RaggedFlash()
    if _LIBRARIES:
        return
    ragged = _here("tests/learner/ragged_on_cpu.py")
    _LIBRARIES.append(library := torch.library.Library("aten", "IMPL"))
    library.impl("_flash_attention_forward", ragged._forward, "CPU")
    library.impl("_flash_attention_backward", ragged._backward, "CPU")


def _helpers() -> tuple[Any, Any]:
    """Modules with `make_batch` and `scaled_lengths`, where a side has them."""
    for names in (("learner.checking.shapes", "learner.checking.lengths"),
                  ("tests.bench.stepping.shapes",) * 2):  # fmt: skip
        if (Path(sys.path[0]) / f"{names[0].replace('.', '/')}.py").exists():
            batches, lengths = map(importlib.import_module, names)
            return batches, lengths
    raise SystemExit(f"{sys.path[0]} has no make_batch. Fix: a later commit as --base")


def _here(path: str) -> Any:
    """A module of this tree, on either side. It needs none but torch and pytest."""
    if path not in _MODULES:
        spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
        assert spec is not None and spec.loader is not None
        _MODULES[path] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(_MODULES[path])
    return _MODULES[path]


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", default=BASE, help=f"the other commit (default {BASE})")
    names = [name for name, *_ in CASES]
    parser.add_argument("--models", nargs="+", choices=names, default=names)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--side", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


if __name__ == "__main__":
    raise SystemExit(main())
