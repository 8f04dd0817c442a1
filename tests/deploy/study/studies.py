"""A study whose runs are made by a stand-in launcher, and the command that runs it."""

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deploy.cluster.process_specs import ROOT
from deploy.study.__main__ import main
from tests.waiting import wait_until

STAND_IN = Path(__file__).with_name("stand_in_launcher.py")
TIMEOUT_S = 60
TEXT = """
[study]
name = "two"
title = "Crop & control"
config = "base.toml"
seeds = [0, 1]
columns = ["full_before", "full_after", "steps", "seconds", "staleness_mean"]
[variants.crop]
[variants.full]
title = "control"
overrides = { "teacher.view" = "full" }
"""


class Study:
    """FOLDER/study.toml, whose results go to FOLDER/out."""

    def __init__(
        self, folder: Path, text: str = TEXT, base: str = "", launcher: str = str(STAND_IN)
    ) -> None:
        """Make the folder; `launcher` is words for a Python interpreter."""
        self.file, self.out, self.base = folder / "study.toml", folder / "out", folder / "base.toml"
        self.file.write_text(text)
        self.base.write_text(base or '[run]\nname = "base"\n')
        self.launcher = folder / "launcher.sh"
        self.launcher.write_text(f'#!/bin/sh\nexec "{sys.executable}" {launcher} "$@"\n')
        self.launcher.chmod(0o700)

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "deploy.study", *self.arguments(), *arguments],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *arguments: str, **environment: str) -> tuple[int, str]:
        """Exit code and all that was said, in this process."""
        said = io.StringIO()
        with (
            pytest.MonkeyPatch.context() as patch,
            contextlib.redirect_stdout(said),
            contextlib.redirect_stderr(said),
            pytest.raises(SystemExit) as ended,
        ):
            patch.setenv("PYTHONPATH", str(ROOT))
            for name, value in environment.items():
                patch.setenv(name, value)
            main([*self.arguments(), *arguments])
        return int(ended.value.code or 0), said.getvalue()

    def arguments(self) -> list[str]:
        return [str(self.file), "--out", str(self.out), "--launcher", str(self.launcher)]

    def calls(self) -> list[str]:
        """The launcher's calls, in their order."""
        path = self.out / "calls"
        return path.read_text().splitlines() if path.exists() else []

    def wait_for_call(self, call: str) -> None:
        wait_until(lambda: call in self.calls())

    def results(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.out / "study.json").read_text())
        return found
