"""deploy/setup.sh, with an interpreter that only writes down what it is asked to install."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from common.config_cli import build
from common.engines import ENGINES
from common.errors import ConfigError
from deploy import launch
from deploy.cluster.environments import set_up_command
from deploy.cluster.pools import PoolName
from tests.deploy.support import FAKE_PYTHON
from tests.waiting import LIMIT_S, wait_until

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = (
    "pyproject.toml",
    "deploy/constraints-cpu.txt",
    "deploy/constraints-gpu.txt",
    "deploy/requirements-sglang-cpu.txt",
    "deploy/requirements-sglang-gpu.txt",
    "deploy/requirements-kernels.txt",
)
FAKE_UV = '#!/usr/bin/env bash\necho "uv $*" >>"$CALLS"\n[ -z "${NO_UV:-}" ]\n'


class Checkout:
    """A checkout with an environment made of fakes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "deploy").mkdir(parents=True)
        for name in ("deploy/setup.sh", *REQUIREMENTS):
            shutil.copy(ROOT / name, root / name)
        self.venv = root / ".venv"
        (root / "tools").mkdir()
        own = [root / kind.own.folder.name for kind in ENGINES.values() if kind.own]
        for folder in (self.venv, *own):
            (folder / "bin").mkdir(parents=True)
            self._executable(folder / "bin" / "python", FAKE_PYTHON)
            self._executable(folder / "bin" / "uv", FAKE_UV)
        self.set_gpu(False)
        self._log = root / "calls"

    def set_gpu(self, is_there: bool) -> None:
        text = f"#!/usr/bin/env bash\nexit {0 if is_there else 9}\n"
        self._executable(self.root / "tools" / "nvidia-smi", text)

    def start(self, *arguments: str, **environment: str) -> "subprocess.Popen[str]":
        path = f"{self.root / 'tools'}{os.pathsep}{os.environ['PATH']}"
        return subprocess.Popen(
            [self.root / "deploy" / "setup.sh", *arguments],
            env={
                **os.environ,
                "PATH": path,
                "CALLS": str(self._log),
                "KERNELS": str(self.root / ".cache" / "kernels"),
                **environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd="/",
        )

    def set_up(self, *arguments: str, **environment: str) -> tuple[int, str]:
        process = self.start(*arguments, **environment)
        output, _ = process.communicate(timeout=2 * LIMIT_S)
        return process.returncode, output

    def calls(self) -> list[str]:
        """What was installed since the last look."""
        if not self._log.exists():
            return []
        lines = self._log.read_text().splitlines()
        self._log.unlink()
        return lines

    @staticmethod
    def _executable(path: Path, text: str) -> None:
        path.write_text(text)
        path.chmod(0o755)


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path / "a checkout")


def test_without_a_gpu_every_package_is_held_to_the_cpu_build(checkout: Checkout) -> None:
    code, output = checkout.set_up()
    assert code == 0, output
    constraints = f"-c {checkout.root}/deploy/constraints-cpu.txt"
    torch, rest = checkout.calls()
    assert torch == f"install --quiet {constraints} torch torchvision"
    assert rest.startswith(f"install --quiet {constraints} -e ")
    assert rest.endswith("[learner,rollout,cluster,quickstart]")
    assert [line.split("] ")[1][:4] for line in output.splitlines()[:4]] == [
        "1/4 ", "2/4 ", "3/4 ", "4/4 ",
    ]  # fmt: skip


def test_with_a_gpu_every_package_is_held_to_sglangs_torch(checkout: Checkout) -> None:
    """And the kernels of the gated delta rule come with it."""
    checkout.set_gpu(True)
    assert checkout.set_up()[0] == 0
    constraints = f"install --quiet -c {checkout.root}/deploy/constraints-gpu.txt"
    torch, rest = checkout.calls()
    assert torch == f"{constraints} torch torchvision"
    assert rest.startswith(f"{constraints} -e ")
    assert rest.endswith("[learner,gpu,rollout,cluster,quickstart]")
    with (checkout.root / "deploy/constraints-gpu.txt").open("a") as file:
        file.write("# one more\n")
    assert checkout.set_up()[0] == 0 and len(checkout.calls()) == 2


def test_the_gpu_constraints_are_what_the_rest_of_the_project_asks_for() -> None:
    def pins(text: str) -> dict[str, str]:
        return dict(re.findall(r"^([\w-]+)==([\w.]+)", text, re.MULTILINE))

    found = pins((ROOT / "deploy/constraints-gpu.txt").read_text())
    on_cpus = pins((ROOT / "deploy/constraints-cpu.txt").read_text())
    assert found["transformers"] == on_cpus["transformers"]  # else CI tests another one
    asked = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for text in (*asked["learner"], *asked["rollout"], *asked["gpu"]):
        wanted = Requirement(text)
        if wanted.name in found:
            assert found[wanted.name] in wanted.specifier, text


@pytest.mark.sglang
def test_the_gpu_constraints_have_the_torch_that_sglang_pins() -> None:
    """With another one the two ends of a push may have another NCCL each."""
    (metadata,) = (ROOT / ".venv-sglang").glob("lib/*/site-packages/sglang-*.dist-info/METADATA")
    (torch,) = re.findall(r"^Requires-Dist: (torch==\S+)$", metadata.read_text(), re.MULTILINE)
    assert torch in (ROOT / "deploy/constraints-gpu.txt").read_text().splitlines()


def test_the_second_call_does_nothing_until_the_requirements_change(checkout: Checkout) -> None:
    checkout.set_up("dev")
    assert checkout.calls()[-1].endswith("quickstart,dev]")
    for arguments in (("dev",), ()):  # what the tests have is enough for a run
        assert checkout.set_up(*arguments) == (0, "")
    with (checkout.root / "pyproject.toml").open("a") as file:
        file.write("# one more\n")
    assert checkout.set_up()[0] == 0
    assert len(checkout.calls()) == 2


def test_a_run_environment_is_extended_for_the_tests(checkout: Checkout) -> None:
    checkout.set_up()
    checkout.calls()
    assert checkout.set_up("dev")[0] == 0
    assert checkout.calls()[-1].endswith("quickstart,dev]")


def test_two_calls_at_once_install_once(checkout: Checkout) -> None:
    calls = [checkout.start(PIP_SECONDS="0.5") for _ in range(2)]
    assert [call.communicate(timeout=2 * LIMIT_S)[0] != "" for call in calls].count(True) == 1
    assert [call.returncode for call in calls] == [0, 0]
    assert len(checkout.calls()) == 2


def test_uv_is_asked_for_the_cpu_build_where_pip_has_none(checkout: Checkout) -> None:
    code, _ = checkout.set_up(NO_CPU_BUILD="1")
    assert code == 0
    _, get_uv, torch, _ = checkout.calls()
    assert get_uv == "install --quiet uv"
    assert torch.startswith("uv pip install") and "--torch-backend=cpu" in torch


def test_no_cpu_build_anywhere_is_one_clear_line(checkout: Checkout) -> None:
    code, output = checkout.set_up(NO_CPU_BUILD="1", NO_UV="1")
    assert code == 1
    assert "set-up failed: no CPU build of torch was found. Fix: " in output.splitlines()[-1]
    assert not any("-e " in call for call in checkout.calls())


def test_a_set_up_that_was_cut_off_is_begun_again(checkout: Checkout) -> None:
    code, _ = checkout.set_up(CUT_OFF="1")
    assert code != 0
    checkout.calls()
    code, output = checkout.set_up(  # the fakes are gone with the old environment: a real one
        PYTHON=sys.executable, PIP_NO_INDEX="1", PIP_CONFIG_FILE=os.devnull, PIP_FIND_LINKS=""
    )
    assert "cut off: beginning again" in output
    assert (code, "no CPU build of torch was found" in output) == (1, True)
    assert (checkout.venv / "pyvenv.cfg").exists() and checkout.calls() == []


def test_sglang_comes_without_cuda_where_there_is_no_gpu(checkout: Checkout) -> None:
    code, output = checkout.set_up("sglang", PYTHONPATH="")
    assert code == 0, output
    deploy = f"{checkout.root}/deploy"
    constraints = f"-c {deploy}/constraints-cpu.txt"
    assert checkout.calls() == [
        f"install --quiet {constraints} torch torchvision",
        f"install --quiet {constraints} -r {deploy}/requirements-sglang-cpu.txt",
        f"install --quiet --no-deps -r {deploy}/requirements-sglang-gpu.txt xgrammar==0.2.7",
        f"check PYTHONPATH={checkout.root}/rollout/sglang/cpu",
    ]
    assert not (checkout.venv / "set-up-sglang").exists()  # an environment of its own
    assert checkout.set_up("sglang") == (0, "")
    assert checkout.set_up()[0] == 0 and len(checkout.calls()) == 2
    with (checkout.root / "deploy/requirements-sglang-cpu.txt").open("a") as file:
        file.write("# one more\n")
    assert checkout.set_up() == (0, "")
    assert checkout.set_up("sglang")[0] == 0 and len(checkout.calls()) == 4


def test_sglang_comes_with_all_it_asks_for_where_there_is_a_gpu(checkout: Checkout) -> None:
    checkout.set_gpu(True)
    assert checkout.set_up("sglang", PYTHONPATH="")[0] == 0
    assert checkout.calls() == [
        f"install --quiet -c {checkout.root}/deploy/constraints-gpu.txt "
        f"-r {checkout.root}/deploy/requirements-sglang-gpu.txt",
        "check PYTHONPATH=",
    ]


def test_sglang_for_gpus_is_not_imported_where_there_is_none(checkout: Checkout) -> None:
    code, output = checkout.set_up("sglang", FLAVOUR="gpu", BROKEN_SGLANG="1")
    assert code == 0 and "no GPU here" in output
    assert not any(call.startswith("check ") for call in checkout.calls())
    checkout.set_gpu(True)
    assert checkout.set_up("sglang", FLAVOUR="gpu") == (0, "")


def test_an_sglang_that_cannot_be_imported_is_no_environment(checkout: Checkout) -> None:
    code, output = checkout.set_up("sglang", BROKEN_SGLANG="1")
    assert code == 1 and "ImportError: broken" in output
    assert "SGLang cannot be imported. Fix: " in output.splitlines()[-1]
    assert not (checkout.root / ".venv-sglang" / "set-up-sglang").exists()


def test_kernels_come_by_themselves_and_again_when_others_are_wanted(checkout: Checkout) -> None:
    requirements = checkout.root / "deploy/requirements-kernels.txt"
    folder = checkout.root / ".cache" / "kernels"
    call = f"install --quiet --no-deps --target {folder} -r {requirements}"
    code, output = checkout.set_up("kernels")
    assert code == 0, output
    assert checkout.calls() == [call] and not (checkout.venv / "set-up-kernels").exists()
    assert checkout.set_up("kernels") == (0, "")
    with requirements.open("a") as file:
        file.write("# one more\n")
    (folder / "old").touch()
    assert checkout.set_up("kernels")[0] == 0
    assert checkout.calls() == [call] and not (folder / "old").exists()


def test_kernels_need_an_environment_to_be_set_up_by(checkout: Checkout) -> None:
    shutil.rmtree(checkout.venv)
    code, output = checkout.set_up("kernels")
    assert code == 1 and output.startswith("set-up failed: no .venv") and "Fix: run " in output
    assert not (checkout.root / ".cache" / "kernels").exists()


def installed(checkout: Checkout) -> list[str]:
    """What was asked for since the last look, without the options of pip."""
    return [call.rpartition(" ")[2].partition("[")[2].rstrip("]") for call in checkout.calls()]


def test_a_pools_environment_holds_what_that_pool_needs(checkout: Checkout) -> None:
    assert checkout.set_up("learner")[0] == 0
    assert installed(checkout) == ["", "learner,cluster"]  # torch, then ours
    assert checkout.set_up("rollout", "without-sglang")[0] == 0
    assert installed(checkout) == ["", "rollout,cluster"]
    for arguments in (("learner",), ("rollout", "without-sglang"), ("broker",)):
        assert checkout.set_up(*arguments) == (0, "")  # none of them has spoilt another
    assert checkout.set_up()[0] == 0
    assert installed(checkout) == ["", "learner,rollout,cluster,quickstart"]


def test_the_brokers_environment_has_no_torch(checkout: Checkout) -> None:
    assert checkout.set_up("broker")[0] == 0
    assert installed(checkout) == ["cluster"]
    assert checkout.set_up("learner")[0] == 0
    assert len(installed(checkout)) == 2


def test_rollout_machines_get_both_environments(checkout: Checkout) -> None:
    code, output = checkout.set_up("rollout", PYTHONPATH="")
    assert code == 0, output
    assert (checkout.root / ".venv-sglang" / "set-up-sglang").exists()
    assert (checkout.venv / "set-up-rollout").exists()
    assert checkout.set_up("rollout") == (0, "")
    assert checkout.set_up("sglang") == (0, "")


def test_what_other_requirements_have_made_is_forgotten(checkout: Checkout) -> None:
    checkout.set_up("learner")
    requirements = checkout.root / "pyproject.toml"
    before = requirements.read_text()
    requirements.write_text(before + "# one more\n")
    checkout.set_up("broker")
    requirements.write_text(before)  # the packages are now those of the other text
    checkout.calls()
    assert checkout.set_up("learner")[0] == 0
    assert len(checkout.calls()) == 2


def test_one_that_was_cut_off_while_it_was_extended_does_not_count(checkout: Checkout) -> None:
    checkout.set_up()
    (checkout.venv / "set-up.unfinished").touch()  # as another goal's set-up left it
    code, output = checkout.set_up(PYTHON="false")
    assert code == 1 and "no Python >= 3.11 found. Fix: " in output  # it wants to begin again


@pytest.mark.parametrize("pool", ["broker", "rollout", "learner"])
@pytest.mark.parametrize("engine", ENGINES)
def test_what_the_launcher_asks_for_is_made(
    pool: PoolName, engine: str, checkout: Checkout
) -> None:
    ours = str(ROOT / ".venv" / "bin" / "python")
    command = set_up_command(pool, build({"rollout": {"engine": engine}}), ours)
    assert command is not None and command[0] == "deploy/setup.sh"
    assert checkout.set_up(*command[1:], PYTHONPATH="")[0] == 0
    assert (checkout.venv / f"set-up-{pool}").exists()
    for name, kind in ENGINES.items():
        if kind.own is not None:
            made = checkout.root / kind.own.folder.name / f"set-up-{kind.own.goal}"
            assert made.exists() == (pool == "rollout" and name == engine)


def test_the_build_can_be_named_where_there_is_no_gpu(checkout: Checkout) -> None:
    assert checkout.set_up("learner", FLAVOUR="gpu")[0] == 0
    assert all("constraints-gpu" in call for call in checkout.calls())
    assert checkout.set_up("learner", FLAVOUR="gpu") == (0, "")
    checkout.set_gpu(True)
    _, output = checkout.set_up("learner", FLAVOUR="cpu")
    assert "CPU build (FLAVOUR=cpu)" in output
    assert all("constraints-cpu" in call for call in checkout.calls())


def test_an_unknown_build_is_one_clear_line(checkout: Checkout) -> None:
    code, output = checkout.set_up("learner", FLAVOUR="cuda")
    assert (code, output.count("\n")) == (1, 1)
    assert "FLAVOUR=cuda is no build. Fix: " in output


def test_further_extras_are_installed_and_remembered(checkout: Checkout) -> None:
    assert checkout.set_up("learner", EXTRAS="kuberay")[0] == 0
    assert installed(checkout)[-1] == "learner,cluster,kuberay"
    assert checkout.set_up("learner", EXTRAS="kuberay") == (0, "")
    assert checkout.set_up("learner")[0] == 0  # without them it is another environment


@pytest.mark.parametrize("arguments", [("slgang",), ("rollout", "sglang")])
def test_an_unknown_environment_is_one_clear_line(
    arguments: tuple[str, ...], checkout: Checkout
) -> None:
    code, output = checkout.set_up(*arguments)
    assert (code, output.count("\n")) == (1, 1)
    assert f"{' '.join(arguments)} is no environment. Fix: " in output


def test_no_fitting_python_is_one_clear_line(checkout: Checkout) -> None:
    shutil.rmtree(checkout.venv)
    code, output = checkout.set_up(PYTHON="false")
    assert code == 1
    assert "no Python >= 3.11 found. Fix: " in output.splitlines()[-1]


@pytest.mark.parametrize(
    ("rollout", "sglang", "cluster", "is_made"),
    [
        ({"engine": "sglang"}, {}, {}, True),
        ({"engine": "embedded"}, {}, {}, False),
        ({"engine": "sglang", "engine_urls": ["http://elsewhere:1"]}, {}, {}, False),
        ({"engine": "sglang"}, {"python": sys.executable}, {}, False),
        ({"engine": "sglang"}, {}, {"address": "10.0.0.1:6379"}, False),
    ],
)
def test_the_launcher_makes_the_environment_of_servers_that_it_starts(
    rollout: dict, sglang: dict, cluster: dict, is_made: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = []

    def run(command: list, check: bool) -> "subprocess.CompletedProcess[str]":
        commands.append([str(word) for word in command])
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(launch.subprocess, "run", run)
    launch._set_up_engine(build({"rollout": rollout, "sglang": sglang, "cluster": cluster}))
    assert commands == ([[str(ROOT / "deploy" / "setup.sh"), "sglang"]] if is_made else [])


def test_a_run_does_not_start_without_that_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = subprocess.CompletedProcess([], 1)
    monkeypatch.setattr(launch.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(ConfigError, match=r"could not be made, see above\. Fix: "):
        launch._set_up_engine(build({"rollout": {"engine": "sglang"}}))


def test_an_nvidia_smi_that_hangs_is_not_waited_for(checkout: Checkout) -> None:
    checkout._executable(checkout.root / "tools" / "nvidia-smi", "#!/bin/sh\nexec sleep 100\n")
    code, output = checkout.set_up("learner", GPU_PATIENCE_S="0.2")
    assert (code, output) == (
        1,
        "set-up failed: nvidia-smi does not answer within 0.2 s. Fix: repair the GPU's driver, or "
        "say what to build for: FLAVOUR=gpu or FLAVOUR=cpu\n",
    )
    assert checkout.set_up("learner", FLAVOUR="cpu")[0] == 0


def test_an_nvidia_smi_that_fails_is_quoted(checkout: Checkout) -> None:
    says = "Failed to initialize NVML: Driver/library version mismatch"
    text = f"#!/bin/sh\necho {says}\necho more\nexit 18\n"
    checkout._executable(checkout.root / "tools" / "nvidia-smi", text)
    code, output = checkout.set_up("learner")
    assert code == 0 and f"torch, CPU build (no NVIDIA GPU is visible: {says}): " in output


def test_a_file_system_without_locks_does_not_end_it(checkout: Checkout) -> None:
    text = "#!/bin/sh\necho 'flock: 9: No locks available' >&2\nexit 71\n"
    checkout._executable(checkout.root / "tools" / "flock", text)
    code, output = checkout.set_up("learner")
    assert code == 0 and "] this file system knows no locks: run no second set-up" in output


def test_checkouts_that_share_an_environment_wait_for_each_other(
    checkout: Checkout, tmp_path: Path
) -> None:
    """By a link: else the second one would take the first one's for cut off, and clear it."""
    other = Checkout(tmp_path / "other")
    shutil.rmtree(other.venv)
    other.venv.symlink_to(checkout.venv)
    first = checkout.start("learner", PIP_SECONDS="0.5")
    wait_until((checkout.venv / "set-up.unfinished").exists)
    code, output = other.set_up("learner")
    assert code == 0 and "was cut off" not in output
    first.communicate(timeout=2 * LIMIT_S)
    assert first.returncode == 0
