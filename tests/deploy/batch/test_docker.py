"""deploy/docker: the images' build steps, followed here as far as that goes without Docker.

What a build would copy is copied, and what it would run of ours is run, with interpreters that only
write down what they are asked to install.
"""

import fnmatch
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from deploy.batch.kuberay_pods import IMAGE_ROOT
from tests.deploy.support import FAKE_PYTHON

ROOT = Path(__file__).resolve().parents[3]
DOCKER = ROOT / "deploy" / "docker"
IMAGES = ("learner", "rollout")


def instructions(image: str) -> list[tuple[str, str]]:
    """(word, rest) of each, continued lines joined."""
    text = (DOCKER / f"{image}.Dockerfile").read_text()
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in joined.splitlines())]


def is_ignored(path: str) -> bool:
    """Whether .dockerignore keeps a file out: the last line that matches it decides."""
    ignored = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        pattern = line.removeprefix("!").removeprefix("**/")
        parts = path.split("/")
        if line.lstrip("!").startswith("**/"):
            matches = any(fnmatch.fnmatchcase(part, pattern) for part in parts)
        else:  # a folder's pattern covers what is in it
            heads = ["/".join(parts[:end]) for end in range(1, len(parts) + 1)]
            matches = any(
                fnmatch.fnmatchcase(head, pattern) and head.count("/") == pattern.count("/")
                for head in heads
            )
        if matches:
            ignored = not line.startswith("!")
    return ignored


@dataclass
class Build:
    root: Path  # the image's working folder
    environment: dict[str, str] = field(default_factory=dict)
    copied: list[str] = field(default_factory=list)
    installed: list[str] = field(default_factory=list)
    set_ups: list[str] = field(default_factory=list)

    def follow(self, image: str) -> None:
        arguments: dict[str, str] = {}
        for word, rest in instructions(image):
            if word == "ARG":
                name, _, value = rest.partition("=")
                arguments[name] = value
            elif word == "ENV":
                for pair in shlex.split(rest):
                    name, _, value = pair.partition("=")
                    value = re.sub(r"\$\{(\w+)\}", lambda found: arguments[found[1]], value)
                    self.environment[name] = value
            elif word == "COPY":
                *sources, target = rest.split()
                for source in sources:
                    self._copy(source, target, len(sources))
            elif word == "RUN" and "setup.sh" in rest:
                self._set_up(re.sub(r"--mount=\S+ ", "", rest))

    def _copy(self, source: str, target: str, sources: int) -> None:
        assert target.endswith("/") or sources == 1
        origin = ROOT / source
        assert origin.exists(), f"COPY {source}: no such file"
        for file in [origin] if origin.is_file() else sorted(origin.rglob("*")):
            name = str(file.relative_to(ROOT))
            if file.is_dir() or is_ignored(name):
                continue
            inside = file.name if origin.is_file() else str(file.relative_to(origin))
            goal = self.root / target / inside
            goal.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, goal)
            self.copied.append(str(goal.relative_to(self.root)))

    def _set_up(self, command: str) -> None:
        tools = self.root.parent / "tools"
        for folder, name, text in (
            (tools, "nvidia-smi", "#!/bin/sh\nexit 9\n"),  # a build sees no GPU
            (self.root / ".venv" / "bin", "python", FAKE_PYTHON),
            (self.root / ".venv-sglang" / "bin", "python", FAKE_PYTHON),
        ):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)
        calls = self.root.parent / "calls"
        calls.write_text("")
        path = f"{tools}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            ["sh", "-c", command], cwd=self.root, text=True, timeout=60, check=False,
            env={"PATH": path, "CALLS": str(calls), **self.environment}, capture_output=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        self.installed += calls.read_text().splitlines()
        self.set_ups.append(command)


@pytest.fixture
def build(tmp_path: Path) -> Build:
    root = tmp_path / "image"
    root.mkdir()
    return Build(root)


@pytest.mark.parametrize(
    ("image", "extras", "set_ups"),
    [
        ("learner", "learner,gpu,cluster,kuberay", ["deploy/setup.sh learner"]),
        (
            "rollout",
            "rollout,cluster,kuberay",
            ["deploy/setup.sh sglang", "deploy/setup.sh rollout"],
        ),
    ],
)
def test_an_image_is_set_up_for_its_pool(
    image: str, extras: str, set_ups: list[str], build: Build
) -> None:
    build.follow(image)
    assert build.set_ups == set_ups
    assert build.installed[-1].endswith(f"[{extras}]")
    # For GPUs, though the machine that builds has none; SGLang once, in its own layer.
    assert all("constraints-gpu" in line for line in build.installed)
    sglang = [line for line in build.installed if "sglang" in line]
    assert len(sglang) == (1 if image == "rollout" else 0)


@pytest.mark.parametrize("image", IMAGES)
def test_a_pods_own_set_up_finds_nothing_to_do(image: str, build: Build) -> None:
    build.follow(image)
    build.installed.clear()
    build._set_up(f"deploy/setup.sh {image}")
    if image == "learner":
        build._set_up("deploy/setup.sh broker")  # the head of a cluster
    assert build.installed == []


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_has_every_file_of_the_packages(image: str, build: Build) -> None:
    build.follow(image)
    tracked = subprocess.run(
        ["git", "ls-files", "common", "broker", "rollout", "learner", "deploy"],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=60,
    ).stdout.splitlines()  # fmt: skip
    assert [name for name in tracked if (ROOT / name).exists() and name not in build.copied] == []
    assert not [name for name in build.copied if "__pycache__" in name or name.startswith(".")]


@pytest.mark.parametrize("image", IMAGES)
def test_what_is_copied_is_enough_to_install_it(image: str, build: Build) -> None:
    """pyproject.toml names files (README, licence); pip's first step fails without them."""
    build.follow(image)
    ask = (
        "import sys; from setuptools import build_meta; "
        "print(build_meta.prepare_metadata_for_build_editable(sys.argv[1]))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ask, str(build.root.parent)],
        cwd=build.root, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    metadata = build.root.parent / done.stdout.splitlines()[-1] / "METADATA"
    assert "Name: vision-opd-async" in metadata.read_text()


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_is_where_the_manifest_expects_it(image: str) -> None:
    found = instructions(image)
    assert ("WORKDIR", str(IMAGE_ROOT)) in found
    assert ("USER", "1000:1000") in found
    asked = {name for name in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"]}  # fmt: skip
    extras = next(rest for word, rest in found if word == "ENV" and "EXTRAS" in rest)
    assert re.findall(r"EXTRAS=(\S+)", extras)[0] in asked


@pytest.mark.parametrize(
    ("path", "ignored"),
    [
        (".venv/bin/python", True),
        ("runs/a/config.toml", True),
        ("keys/server.json", True),
        ("broker/__pycache__/ledger.cpython-311.pyc", True),
        ("tests/run.sh", True),
        ("broker/keys.py", False),
        ("deploy/quickstart/checkpoint/model.safetensors", False),
        ("README.md", False),
    ],
)
def test_the_build_context_holds_the_code_alone(path: str, ignored: bool) -> None:
    assert is_ignored(path) == ignored
