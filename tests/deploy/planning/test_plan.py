import json
from pathlib import Path

import pytest

from common.errors import ConfigError, VisionOpdError
from deploy import plan
from deploy.planning import calibrate as calibration
from deploy.planning.prediction import AS_FAST
from deploy.planning.rates import read_rates
from tests.deploy.planning.made_up_run import make_run, tiny_model
from tests.tiny_world import make_dataset

CONFIGS = Path(__file__).parents[3] / "deploy" / "configs"
PUBLISHED = str(CONFIGS / "vision_opd_qwen3_5_4b.toml")


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def small(tmp_path, model) -> list[str]:
    """Arguments of a small run on cores."""
    data = make_dataset(tmp_path / "data", 40)
    return [
        "--model.path", str(model), "--data.train", str(data), "--learner.groups_per_step", "2",
        "--rollout.engine", "embedded", "--broker.max_staleness", "1", "--learner.device", "cpu",
        "--run.folder", str(tmp_path / "runs" / "mine"),
    ]  # fmt: skip


def test_own_options_are_told_from_those_of_the_configuration():
    options, rest = plan.split_arguments(
        ["--gpus", "8", "--model.dtype", "float32", "--calibrate", "--steps=4", "--json", "a.json"]
    )
    assert (options.gpus, options.calibrate, options.steps) == (8, True, 4)
    assert options.json == Path("a.json") and options.rates is None
    assert rest == ["--model.dtype", "float32"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--gpus"], "--gpus has no value"),
        (["--gpus", "many"], "--gpus many: no positive number"),
        (["--steps", "0"], "--steps 0: no positive number"),
    ],
)
def test_options_that_are_none(arguments, reason):
    with pytest.raises(ConfigError, match=f"{reason}.*Fix"):
        plan.split_arguments(arguments)


def test_the_published_run_on_eight_gpus(tmp_path, capsys):
    file = tmp_path / "plan.json"
    plan.main(["--config", PUBLISHED, "--gpus", "8", "--gpu", "H100", "--json", str(file)])
    text = capsys.readouterr().out
    assert "4.54 billion parameters" in text and "8 GPUs, by --gpus; H100" in text
    assert "! 110" in text or "!" in text  # one rank alone cannot hold it
    content = json.loads(file.read_text())
    best = content["recommended"]
    assert best["fits"] and best["ranks"] + (0 if best["is_shared"] else best["servers"]) == 8
    fastest = min(p["step_s"] for p in content["predictions"] if p["fits"])
    assert best["step_s"] == pytest.approx(fastest, rel=AS_FAST)
    command = f"deploy/launch_cluster.sh --config {PUBLISHED} {' '.join(best['flags'])}"
    assert command in text


def test_sharing_prompts_saves_most_of_the_learners_work(tmp_path):
    files = {}
    for shares in ("true", "false"):
        files[shares] = tmp_path / f"{shares}.json"
        arguments = ["--config", PUBLISHED, "--gpus", "3", "--json", str(files[shares])]
        plan.main([*arguments, "--model.share_prefix", shares])
    step_s = {
        shares: next(
            p["step_s"]
            for p in json.loads(file.read_text())["predictions"]
            if p["servers"] == 2 and p["max_staleness"] == 1
        )
        for shares, file in files.items()
    }
    assert step_s["false"] > 2.5 * step_s["true"]


def test_a_described_cluster(tmp_path, capsys):
    pytest.importorskip("deploy.cluster.clusters")
    cluster = tmp_path / "cluster.toml"
    cluster.write_text(
        '[[node]]\nname = "gpu"\ncount = 2\ncpus = 64\ngpus = 4\ngpu = "A100"\n'
        'gpu_gib = 80\nhost = "10.0.0.1"\n'
    )
    plan.main(["--config", PUBLISHED, "--cluster", str(cluster)])
    text = capsys.readouterr().out
    assert "the described cluster: 2 machines with GPUs; A100" in text


def test_a_run_on_cores_has_one_split(small, capsys):
    plan.main(small)
    text = capsys.readouterr().out
    assert "no GPU: the processes as configured" in text and "GiB each" in text
    rows = text.split("Splits")[1].split("Recommended")[0].strip().splitlines()
    assert len(rows) == 2 + 2  # heading, and both bounds of staleness


def test_errors_are_one_line(capsys):
    with pytest.raises(SystemExit, match="2"):
        plan.main(["--model.path", "somebody/unknown"])
    assert capsys.readouterr().err.count("\n") == 1


def test_too_few_gpus_for_a_server_are_refused(capsys):
    with pytest.raises(SystemExit, match="2"):
        plan.main(["--config", PUBLISHED, "--gpus", "2", "--sglang.tensor_parallel", "4"])
    assert "2 GPUs cannot be divided" in capsys.readouterr().err


def test_a_calibration_runs_the_launcher_and_leaves_nothing(
    small, tmp_path, model, capsys, monkeypatch
):
    seen: list[list[str]] = []

    def launched(arguments):
        seen.append(list(arguments))
        flags = dict(zip(*[iter(arguments)] * 2, strict=True))
        folder = Path(flags["--run.folder"])  # the last one counts
        assert folder.parent.parent == tmp_path / "runs"  # beside the run to be
        make_run(folder, model)

    monkeypatch.setattr(calibration, "_run", launched)
    file = tmp_path / "rates.json"
    plan.main([*small, "--calibrate", "--steps", "4", "--rates", str(file)])
    (arguments,) = seen
    assert arguments[2:][: len(small)] == small  # behind --config
    changes = dict(zip(*[iter(arguments[2 + len(small) :])] * 2, strict=True))
    assert changes["--learner.max_steps"] == "6"  # one to warm up, one without generation
    assert changes["--evaluation.every_steps"] == "0" and changes["--run.resume"] == "false"
    assert not list((tmp_path / "runs").iterdir())
    rates = read_rates(file)
    assert rates.vision_s.source == "measured"
    calibrated = capsys.readouterr().out
    assert "measured" in calibrated
    plan.main([*small, "--rates", str(file)])
    assert calibrated.split("Splits")[1] == capsys.readouterr().out.split("Splits")[1]


def test_a_calibration_that_fails_shows_the_end_of_its_output(small, tmp_path, monkeypatch):
    monkeypatch.setattr(calibration.sys, "executable", "/bin/false")
    with pytest.raises(SystemExit, match="no plan: the calibration run failed"):
        plan.main([*small, "--calibrate"])
    assert not list((tmp_path / "runs").iterdir())


def test_one_step_is_no_calibration(small):
    with pytest.raises(SystemExit, match="2"):
        plan.main([*small, "--calibrate", "--steps", "1"])
    with pytest.raises(VisionOpdError):
        calibration.calibrate(None, [], 1, None, print)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_quickstart_is_calibrated_by_running_it(tmp_path, capsys):
    """A few real steps of the quickstart, smaller, through the launcher."""
    file = tmp_path / "plan.json"
    plan.main([
        "--calibrate", "--steps", "2", "--json", str(file), "--rates", str(tmp_path / "rates.json"),
        "--learner.groups_per_step", "8", "--rollout.max_concurrent_groups", "8",
        "--run.folder", str(tmp_path / "runs" / "mine"),
    ])  # fmt: skip
    rates = read_rates(tmp_path / "rates.json")
    assumed = [name for name, rate in rates.named().items() if rate.source == "assumed"]
    assert assumed == ["checkpoint_s"]
    assert all(rates.of(name).value > 0 for name in ("vision_s", "backward_s", "teacher_s"))
    assert rates.group_shared_s.value > 0 and rates.prompt_tokens > 100
    best = json.loads(file.read_text())["recommended"]
    assert best["step_s"] > rates.step_s()
    assert "median of 2 steps" in capsys.readouterr().out
