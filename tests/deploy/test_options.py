import re
import time
from pathlib import Path

import pytest

import deploy.launch
from common.config_cli import build, load
from common.errors import ConfigError
from deploy.cluster.process_specs import ROOT
from deploy.options import (
    Options,
    absolute_paths,
    pinned_revisions,
    run_folder,
    take_options,
    with_address,
)
from tests.tiny_world import make_dataset

DEFAULT = Path("/configs/quickstart.toml")


def take(*argv: str) -> Options:
    return take_options(argv, DEFAULT)


def test_without_arguments_the_default_config_is_run() -> None:
    assert take() == Options(("--config", str(DEFAULT)))
    assert take("--config=mine.toml", "--run.seed", "3").arguments == (
        "--config=mine.toml",
        "--run.seed",
        "3",
    )


def test_own_options_are_taken_out_of_those_of_the_configuration() -> None:
    options = take("--run.seed", "3", "--dry-run", "--cluster", "c.toml", "--run.name=x")
    assert options.dry_run and options.cluster == Path("c.toml")
    assert options.arguments == ("--config", str(DEFAULT), "--run.seed", "3", "--run.name=x")
    assert take("--dry-run", "--slurm").slurm
    assert take("--kuberay").kuberay


def test_an_address_is_that_of_the_configuration_and_the_later_one_wins() -> None:
    for argv in (("--address", "a:1"), ("--address=a:1",)):
        assert take(*argv).arguments[-2:] == ("--cluster.address", "a:1")
    options = take("--config", str(deploy.launch.QUICKSTART), "--cluster.address", "a:1")
    assert load(options.arguments).cluster.address == "a:1"
    options = take("--config", str(deploy.launch.QUICKSTART), "--address=a:1", "--address", "b:2")
    assert load(options.arguments).cluster.address == "b:2"


def test_a_value_that_looks_like_an_option_stays_a_value() -> None:
    assert take("--run.name", "--slurm", "--dry-run").arguments[-1] == "--slurm"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("--address", r"--address has no value\. Fix: --address HOST:PORT"),
        ("--address --dry-run", r"--address has no value"),
        ("--dry-run --cluster", r"--cluster has no value\. Fix: --cluster FILE"),
        ("--dry-run=yes", r"--dry-run takes no value\. Fix: --dry-run"),
        ("--slurm --kuberay", r"--slurm and --kuberay .*Fix: give one"),
        ("--cluster c.toml", r"only describes machines\. Fix: add --dry-run"),
        ("--cluster c.toml --dry-run --slurm", r"plain --dry-run\. Fix: leave out --slurm"),
    ],
)
def test_options_that_do_not_go_together_are_refused(argv: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        take(*argv.split())


def test_the_address_comes_from_the_environment_when_nobody_gives_one() -> None:
    plain, named = build({}), build({"cluster": {"address": "a:1"}})
    environment = {"RAY_ADDRESS": "b:2"}
    assert with_address(plain, take(), environment).cluster.address == "b:2"
    assert with_address(named, take(), environment).cluster.address == "a:1"
    assert with_address(plain, take(), {"RAY_ADDRESS": ""}).cluster.address is None
    described = take("--dry-run", "--cluster", "c.toml")
    for options in (described, take("--slurm"), take("--kuberay")):
        assert with_address(plain, options, environment).cluster.address is None
        with pytest.raises(ConfigError, match=r"'a:1' and --\w+: .*Fix: leave out one"):
            with_address(named, options, environment)


def test_paths_are_made_absolute_and_nothing_else_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = "--config c.toml --data.train=d/t.parquet --run.name d/x --model.path ./m"
    given = [*arguments.split(), "--data.heldout", "none", "--model.path", "Qwen/Qwen3.5-4B"]
    assert absolute_paths(given) == (
        "--config",
        f"{tmp_path}/c.toml",
        f"--data.train={tmp_path}/d/t.parquet",
        "--run.name",
        "d/x",
        "--model.path",
        f"{tmp_path}/m",
        "--data.heldout",
        "none",
        "--model.path",
        "Qwen/Qwen3.5-4B",
    )


def test_a_run_without_a_folder_gets_one_by_name_and_time() -> None:
    now = time.struct_time((2026, 1, 2, 3, 4, 5, 0, 0, 0))
    assert run_folder(build({"run": {"name": "x"}}), now) == ROOT / "runs" / "x-20260102-030405"
    named = build({"run": {"folder": "/there"}})
    assert run_folder(named, now) == Path("/there")


def test_help_shows_options_of_launcher_and_configuration(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as end:
        deploy.launch.main(["--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert re.search(r"^  2 +refused before anything was trained", shown, re.MULTILINE)
    for option in ("--address", "--dry-run", "--cluster", "--slurm", "--kuberay"):
        assert re.search(rf"^  {option}\b", shown, re.MULTILINE), option
    assert "--broker.max_staleness INT" in shown


def test_slurm_with_a_dry_run_prints_the_script_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    deploy.launch.main(["--slurm", "--dry-run", "--run.folder", str(folder), "--run.seed", "3"])
    shown = capsys.readouterr().out
    assert shown.startswith("#!") and "#SBATCH" in shown
    assert "--run.seed" in shown and str(folder) in shown
    assert not folder.exists()


def test_slurm_submits_what_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make_dataset(tmp_path / "data", 5)
    monkeypatch.setenv("PATH", str(tmp_path))
    arguments = ["--config", str(ROOT / "deploy/configs/eight_gpus.toml"), "--slurm"]
    arguments += ["--model.path", str(ROOT / "deploy/quickstart/checkpoint")]
    arguments += ["--learner.groups_per_step", "5"]
    with pytest.raises(SystemExit) as end:
        deploy.launch.main([*arguments, "--run.folder", str(tmp_path / "run")])
    assert end.value.code == 2 and "data.train is not set" in capsys.readouterr().err
    with pytest.raises(SystemExit) as end:
        deploy.launch.main(
            [*arguments, "--run.folder", str(tmp_path / "run"), "--data.train", str(data)]
        )
    assert end.value.code == 2 and "no sbatch" in capsys.readouterr().err
    (tmp_path / "sbatch").write_text("#!/bin/sh\necho 42\n")
    (tmp_path / "sbatch").chmod(0o700)
    deploy.launch.main(
        [*arguments, "--run.folder", str(tmp_path / "run"), "--data.train", str(data)]
    )
    assert capsys.readouterr().out.splitlines() == [
        "data: 5 samples x 1 epoch = 1 step of 5",
        "submitted job 42",
        f"run folder: {tmp_path}/run",
    ]


def test_a_model_that_is_none_is_refused_before_anything_is_submitted_or_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "train.parquet").touch()
    (tmp_path / "sbatch").touch(0o700)
    monkeypatch.setenv("PATH", str(tmp_path))
    arguments = ["--run.folder", str(tmp_path / "run"), "--model.path", str(tmp_path / "none")]
    arguments += ["--data.train", str(tmp_path / "train.parquet"), "--data.heldout"]
    arguments += [str(tmp_path / "train.parquet")]
    for how in ([], ["--slurm"]):
        with pytest.raises(SystemExit) as end:
            deploy.launch.main([*arguments, *how])
        assert end.value.code == 2
        assert f"model.path = '{tmp_path}/none' is no folder here" in capsys.readouterr().err
        assert not (tmp_path / "run").exists()


def test_a_job_is_held_to_the_commits_that_were_found_when_it_was_submitted() -> None:
    config = build({"model": {"revision": "a" * 40}})
    assert pinned_revisions(config) == ("--model.revision", "a" * 40)
    assert pinned_revisions(build({})) == ()


def test_kuberay_prints_a_manifest(capsys: pytest.CaptureFixture[str]) -> None:
    config = str(ROOT / "deploy/configs/eight_gpus.toml")
    images = [f"--{pool}_pool.image=registry/{pool}" for pool in ("broker", "rollout", "learner")]
    deploy.launch.main(["--config", config, "--kuberay", *images])
    assert "apiVersion: ray.io/v1" in capsys.readouterr().out
