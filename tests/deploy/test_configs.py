"""Each config that is shipped fits the machines that it was written for."""

import subprocess
from pathlib import Path

import pytest

import deploy.launch
from common.config_cli import load
from deploy.cluster.process_specs import ROOT
from deploy.planning.memory import SLOTS_A_REQUEST

CONFIGS = ROOT / "deploy" / "configs"
MACHINES = {
    "laptop": "laptop",
    "one_gpu": "1x_h100",
    "two_gpus": "2x_h100",
    "eight_gpus": "8x_h100",
    "two_nodes": "2x8_h100",
    "eight_nodes": "8x8_h100",
    "qwen3_5_9b": "8x_h100",
}
ON_THE_LAPTOP = {"laptop", *(path.stem for path in CONFIGS.glob("quickstart*.toml"))}
PUBLISHED = "vision_opd_qwen3_5_4b"


def config_of(name: str) -> Path:
    return CONFIGS / f"{name}.toml"


def arguments(name: str, machines: str) -> list[str]:
    cluster = CONFIGS / "clusters" / f"{machines}.toml"
    return ["--config", str(config_of(name)), "--dry-run", "--cluster", str(cluster)]


def test_every_config_and_every_cluster_is_tried_here() -> None:
    assert {path.stem for path in CONFIGS.glob("*.toml")} == {*MACHINES, *ON_THE_LAPTOP, PUBLISHED}
    assert {path.stem for path in (CONFIGS / "clusters").glob("*.toml")} == {*MACHINES.values()}


@pytest.mark.parametrize(
    ("name", "machines"),
    [*MACHINES.items(), *((name, "laptop") for name in sorted(ON_THE_LAPTOP - MACHINES.keys()))],
)
def test_a_config_fits_its_machines(
    name: str, machines: str, capsys: pytest.CaptureFixture[str]
) -> None:
    deploy.launch.main(arguments(name, machines))
    shown = capsys.readouterr().out
    config = load(["--config", str(config_of(name))])
    count = 1 + config.rollout.servers + config.learner.ranks
    assert f"It fits: {count} processes on " in shown
    assert shown.count(".main ") == count


def test_the_published_step_is_kept_where_its_model_is_trained() -> None:
    for name in MACHINES.keys() - ON_THE_LAPTOP:
        config = load(["--config", str(config_of(name))])
        assert config.learner.groups_per_step == 96
        assert config.learner.groups_per_step >= 3 * config.learner.ranks  # shares are much alike
        assert config.rollout.trajectories_per_sample == 8
        assert config.broker.max_staleness == 1  # pools that overlap
        assert config.checkpoint.every_steps > 0  # a restart costs little
        assert config.model.path.startswith("Qwen/Qwen3.5-")


@pytest.mark.parametrize("name", sorted(MACHINES.keys() - ON_THE_LAPTOP))
def test_first_starts_on_gpus_have_time(name: str) -> None:
    """Kernels are compiled, CUDA graphs captured, and NCCL starts within the first push."""
    config = load(["--config", str(config_of(name))])
    assert config.rollout.start_timeout_s >= 1800
    assert config.weights.timeout_s >= 60


def test_a_gpu_that_is_shared_takes_weights_from_files() -> None:
    """NCCL refuses two ranks on one GPU, and Ray's shares limit no memory."""
    config = load(["--config", str(config_of("one_gpu"))])
    assert config.rollout_pool.gpus + config.learner_pool.gpus == 1
    assert config.weights.transport == "files"
    requests = config.rollout.max_concurrent_groups * config.rollout.trajectories_per_sample
    assert config.sglang.max_states == SLOTS_A_REQUEST * (requests + 1)
    longest = config.model.max_prompt_tokens * config.rollout.max_concurrent_groups
    longest += config.rollout.max_response_tokens * requests
    assert config.sglang.max_total_tokens == longest


@pytest.mark.parametrize(
    ("name", "machines", "message"),
    [
        ("one_gpu", "laptop", "learner_pool finds no place: it needs 1 x (8 CPUs and 0.6 of a GPU"),
        ("two_gpus", "1x_h100", "rollout_pool.gpus = 0.4 and learner_pool.gpus = 0.6 with"),
        ("eight_gpus", "2x_h100", "Fix: learner.ranks = 2, or"),
        ("two_nodes", "8x_h100", "no machine with the labels pool=learner. Fix: other learner_p"),
        ("eight_nodes", "2x8_h100", "learner.ranks = 8 on learner_pool.nodes = 1, or more mach"),
    ],
)
def test_a_config_that_does_not_fit_names_pool_and_mend(
    name: str, machines: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        deploy.launch.main(arguments(name, machines))
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_the_shell_command_shows_a_dry_run() -> None:
    done = subprocess.run(
        [ROOT / "deploy" / "launch_cluster.sh", *arguments("two_nodes", "2x8_h100")],
        capture_output=True,
        text=True,
        timeout=170,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Dry run of two-nodes")
    assert done.stdout.rstrip().endswith("memory was not.")
