"""What is refused costs nothing: one line, exit code 2, no Ray, and a run folder as it was."""

import fcntl
import hashlib
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import deploy.launch
from broker.ledger.entry import Rules
from broker.service.opening import dataset_of, open_durable
from broker.storage.disk import FolderDisk
from common.config_cli import load
from common.errors import ConfigError
from common.training_data import open_source
from deploy.supervision.begun_run import begun
from tests.deploy.supervision.support import NOW
from tests.tiny_world import make_dataset

QUICKSTART = str(deploy.launch.QUICKSTART)
ROWS = 8
Prepare = Callable[[Path], None]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data"), ROWS)


@pytest.fixture
def run(tmp_path: Path, data: Path) -> Path:
    """A run that was begun on a copy of the data and has ended."""
    pq.write_table(pq.read_table(data), tmp_path / "train.parquet")
    (tmp_path / "images").symlink_to(data.parent / "images")
    arguments = ["--config", QUICKSTART, "--data.train", str(tmp_path / "train.parquet")]
    arguments += ["--data.heldout", "none", "--evaluation.every_steps", "0"]
    arguments += ["--run.folder", str(tmp_path / "run"), "--learner.groups_per_step", "4"]
    config = load(arguments)
    with begun(config, NOW):
        pass
    source, disk = open_source(config), FolderDisk(tmp_path / "run" / "journal")
    store = open_durable(disk, source, Rules.of(config), fsync="never", dataset=dataset_of(config))[
        1
    ]
    store.close()
    (tmp_path / "run" / "summary.json").write_text('{"steps": 3}')
    (tmp_path / "run" / "logs" / "broker.log").write_text("old words\n")
    return tmp_path / "run"


def digest(folder: Path) -> dict[str, str]:
    """Every file and folder below, byte for byte and with its time."""
    return {
        str(path.relative_to(folder)): "folder"
        if path.is_dir()
        else f"{path.stat().st_mtime_ns} {hashlib.sha256(path.read_bytes()).hexdigest()}"
        for path in sorted(folder.rglob("*"))
    }


def refused(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        deploy.launch.main(arguments)
    assert isinstance(end.value.code, int)
    return end.value.code


def keep_rows(count: int) -> Prepare:
    def prepare(folder: Path) -> None:
        path = folder.parent / "train.parquet"
        pq.write_table(pq.read_table(path).slice(0, count), path)

    return prepare


def lose_file(folder: Path) -> None:
    (folder.parent / "train.parquet").unlink()


def nothing(folder: Path) -> None:
    pass


RESUMES: list[tuple[Prepare, str, str]] = [
    (nothing, "--learner.groups_per_step 3", "learner.groups_per_step = 3, but the run in run.f"),
    (nothing, "--broker.max_staleness 5", "broker.max_staleness = 5, but the run"),
    (nothing, "--rollout.trajectories_per_sample 9", "rollout.trajectories_per_sample = 9, but"),
    (nothing, "--run.seed 7", "run.seed = 7, but the run in run.folder was begun with 0"),
    (nothing, "--data.epochs 2", "data.epochs = 2, but the run"),
    (keep_rows(7), "", "its content changed since the run began (8 usable rows then, 7 now)"),
    (keep_rows(3), "", "less than one step. Fix:"),
    (keep_rows(0), "", "holds no usable row"),
    (lose_file, "", "train.parquet': no such file. Fix: name a Parquet file"),
    (nothing, "--rollout.max_response_tokens 100000", "but the context holds 4096 tokens (max_pos"),
    (nothing, "--model.path /nowhere", "model.path = '/nowhere' is no folder here. Fix:"),
    (nothing, "--run.resume false", "holds a run already. Fix: name another folder, or go on"),
    (nothing, "--learner_pool.gpus 640", "learner_pool finds no place"),
    (nothing, "--resume", "unknown option --resume. Fix: did you mean --run.resume true?"),
    (nothing, "--broker.keys /nowhere", "/nowhere"),
    (nothing, "--cluster.address 127.0.0.1:1", "cluster.address (--address) = '127.0.0.1:1': no R"),
]


@pytest.mark.parametrize(("prepare", "arguments", "line"), RESUMES)
def test_a_refused_resume_changes_no_file(
    run: Path, prepare: Prepare, arguments: str, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(run)
    before = digest(run.parent)
    resume = ["--config", str(run / "config.toml"), "--run.resume", "true"]
    assert refused(*resume, *arguments.split()) == 2
    said = capsys.readouterr().err
    assert line in said and said.count("\n") == 1, said
    assert digest(run.parent) == before


def test_a_run_that_somebody_runs_is_not_touched(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = digest(run.parent)
    with (run / "launcher.lock").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert refused("--config", str(run / "config.toml"), "--run.resume", "true") == 2
    assert "another launcher runs it. Fix:" in capsys.readouterr().err
    assert digest(run.parent) == before


STARTS = [
    ("--data.train /nowhere.parquet", "data.train = '/nowhere.parquet': no such file"),
    ("--data.train /", "data.train = '/': it is a folder. Fix: name a Parquet file"),
    ("--data.heldout /nowhere.parquet", "data.heldout = '/nowhere.parquet': no such file"),
    (f"--learner.groups_per_step {ROWS + 1}", "less than one step. Fix:"),
    ("--model.path /nowhere", "model.path = '/nowhere' is no folder here"),
    ("--rollout.max_response_tokens 4096", "no row fits. Fix: rollout.max_response_tokens = 2048"),
    ("--rollout_pool.gpus 1 --rollout.servers 900", "rollout_pool finds no place"),
    ("--run.folder /dev/null/run", "/dev/null is no folder. Fix: --run.folder FOLDER"),
    ("--run.resume true", "holds no run. Fix: --config RUN/config.toml --run.resume true"),
]


@pytest.mark.parametrize(("arguments", "line"), STARTS)
def test_a_refused_start_leaves_nothing_behind(
    tmp_path: Path, data: Path, arguments: str, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "runs" / "new"
    given = ["--data.train", str(data), "--learner.groups_per_step", "4"]
    assert refused(*given, "--run.folder", str(folder), *arguments.split()) == 2
    said = capsys.readouterr().err
    assert line in said and said.count("\n") == 1, said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("variable", "value", "line"),
    [
        ("RAY_ADDRESS", "garbage", "environment: RAY_ADDRESS = 'garbage': no HOST:PORT. Fix: uns"),
        ("RAY_ADDRESS", "127.0.0.1:1", "environment: RAY_ADDRESS = '127.0.0.1:1': no Ray answers"),
        ("RAY_ADDRESS", "ray://a:1", "environment: RAY_ADDRESS = 'ray://a:1': no HOST:PORT"),
    ],
)
def test_what_the_environment_says_is_named_as_such(
    tmp_path: Path,
    data: Path,
    variable: str,
    value: str,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(variable, value)
    given = ["--data.train", str(data), "--learner.groups_per_step", "4"]
    assert refused(*given, "--run.folder", str(tmp_path / "new")) == 2
    assert line in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


# ---- refused later, when the folder has been begun -----------------------------------------------
def test_what_cannot_be_begun_leaves_nothing_behind(tmp_path: Path, run: Path) -> None:
    config = load(["--config", str(run / "config.toml")])
    before = digest(tmp_path)
    with pytest.raises(ConfigError, match="holds a run already"), begun(config, NOW):
        pass
    assert digest(tmp_path) == before


def test_a_process_that_refuses_later_leaves_configuration_and_summary_as_they_were(
    run: Path,
) -> None:
    resume = ["--config", str(run / "config.toml"), "--run.resume", "true"]
    config = load([*resume, "--learner.max_steps", "9"])
    texts = {name: (run / name).read_bytes() for name in ("config.toml", "summary.json")}
    with begun(config, NOW) as (_, folder, footprint):
        assert not (folder / "summary.json").exists()
        assert "max_steps = 9" in (folder / "config.toml").read_text()
        footprint.restore(keeps_logs=True)
    assert {name: (run / name).read_bytes() for name in texts} == texts


def test_of_a_new_run_only_its_logs_tell_of_a_late_refusal(tmp_path: Path, run: Path) -> None:
    config = load(["--config", str(run / "config.toml"), "--run.folder", str(tmp_path / "late")])
    with begun(config, NOW) as (_, folder, footprint):
        (folder / "journal").mkdir()
        (folder / "journal" / "journal.log").write_text("x")
        (folder / "logs" / "broker.log").write_text("why\n")
        footprint.restore(keeps_logs=True)
    assert set(digest(folder)) == {"logs", "logs/broker.log"}
    with begun(config, NOW):
        pass  # the same start again is no start in the folder of a run


def test_a_launcher_that_comes_second_removes_nothing_of_the_first(tmp_path: Path) -> None:
    config = load(["--config", QUICKSTART, "--run.folder", str(tmp_path / "run")])
    with begun(config, NOW):
        before = digest(tmp_path)
        with pytest.raises(ConfigError, match="another launcher runs it"), begun(config, NOW):
            pass
        assert digest(tmp_path) == before
