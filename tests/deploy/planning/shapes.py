"""A model small enough to count by hand, and the run that goes with it."""

from common.config import RunConfig
from common.config_cli import build
from deploy.planning.devices import Device
from deploy.planning.layout import Machines
from deploy.planning.rates import RATE_NAMES, Rate, Rates
from deploy.planning.shape import ModelShape, Tower
from deploy.planning.workload import Workload

TOWER = Tower(
    depth=2, width=4, mlp_width=8, patch=2, merge=2, output_width=6, mergers=1, patch_depth=1
)
SHAPE = ModelShape(
    source="by hand",
    width=6,
    layers=3,
    full_layers=3,
    heads=2,
    kv_heads=1,
    head_width=3,
    mlp_width=10,
    vocabulary=50,
    is_tied=True,
    tower=TOWER,
)
WORK = Workload(
    image_tokens=5,
    prompt_tokens=20,
    crop_tokens=2,
    teacher_tokens=10,
    response_tokens=4,
    source="by hand",
)
# 1000 operations/s at full use, 100 bytes/s, 10 KB, 50 bytes/s to others
DEVICE = Device("H100", 1000.0, 100.0, 10_000.0, 50.0)
MACHINES = Machines(DEVICE, DEVICE, gpus=4, gpus_a_node=4, source="by hand")


def config(**sections: dict[str, object]) -> RunConfig:
    tree: dict[str, dict[str, object]] = {
        "model": {"path": "by-hand", "gradient_checkpointing": False},
        "rollout": {"trajectories_per_sample": 2, "max_response_tokens": 100},
        "learner": {"groups_per_step": 8, "micro_batch_tokens": 28, "render_processes": 0},
    }
    for section, fields in sections.items():
        tree[section] = {**tree.get(section, {}), **fields}
    return build(tree)


def some_rates(**values: float) -> Rates:
    """All zero but those that are given."""
    assumed = {name: Rate(values.get(name, 0.0), "assumed", "by hand") for name in RATE_NAMES}
    return Rates(
        machines="H100",
        ranks=1,
        shards=1,
        groups_per_step=8,
        prompt_tokens=20,
        response_tokens=4.0,
        spread=(1.0,),
        **assumed,
    )
