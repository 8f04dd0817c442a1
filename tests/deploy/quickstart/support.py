"""A launched run of the quick start and what is known of it."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[3]
SMALL = (
    *("--learner.groups_per_step", "8", "--evaluation.interim_samples", "16"),
    *("--evaluation.samples", "32", "--evaluation.shown", "3", "--evaluation.every_steps", "2"),
)
TIMEOUT_S = 280  # the first run here makes the quickstart's world


class Launched:
    """One launcher process, and all processes that it brought into the world."""

    def __init__(self, folder: Path, *arguments: str, output: Path | None = None) -> None:
        self.folder = folder
        self._marker = f"VISION_OPD_TEST={folder.name}-{os.getpid()}-{time.monotonic_ns()}"
        name, _, value = self._marker.partition("=")
        # Outside of the folder's disk, which may be full.
        self._output = output or folder.with_suffix(".out")
        with self._output.open("wb") as said:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "deploy.launch", "--run.folder", str(folder), *arguments],
                stdout=said,
                stderr=said,
                cwd=ROOT,
                env={**os.environ, name: value},
                start_new_session=True,  # a process group of its own, as from a shell
                # Tests that are run by nohup ignore it, and so would what they start.
                preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
            )

    def output(self) -> str:
        return self._output.read_text()

    def wait(self) -> int:
        return self.process.wait(TIMEOUT_S)

    def wait_for_step(self, step: int) -> None:
        """Until metrics.jsonl has a training row of `step`."""
        self._wait_until(lambda: any(row["step"] >= step for row in self.metrics()))

    def wait_until_output(self, part: str) -> None:
        self._wait_until(lambda: part in self.output())

    def metrics(self) -> list[dict[str, float]]:
        path = self.folder / "metrics.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def entries(self) -> list[dict[str, Any]]:
        """Processes of processes.json; none before it is there."""
        path = self.folder / "processes.json"
        found: list[dict[str, Any]] = []
        return json.loads(path.read_text())["processes"] if path.exists() else found

    def entry(self, name: str) -> dict[str, Any]:
        return next(entry for entry in self.entries() if entry["name"] == name)

    def ends(self, name: str) -> list[str]:
        """Why each life before the last one ended."""
        entry = self.entry(name)
        assert entry["restarts"] == len(entry["ends"])
        return [end["why"] for end in entry["ends"]]

    def wait_until_up(self, name: str) -> None:
        self._wait_until(
            lambda: any(e["name"] == name and e["state"] == "up" for e in self.entries())
        )

    def _wait_until(self, condition: Callable[[], bool]) -> None:
        def is_so() -> bool:
            is_alive = self.process.poll() is None  # before the last look at the condition
            found = condition()
            assert found or is_alive, self.output()
            return found

        wait_until(is_so, TIMEOUT_S, self.output)

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        os.kill(self.entry(name)["pid"], number)

    def ask(self, module: str, *words: str) -> str:
        """What a person's command says about this run; it must not fail."""
        command = [sys.executable, "-m", module, str(self.folder), *words]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def pids(self, part: str = "") -> dict[int, str]:
        """Processes of this run, the launcher left out, with `part` in their command line."""
        found = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) in (os.getpid(), self.process.pid):
                continue
            try:
                environment = (entry / "environ").read_bytes()
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if self._marker.encode() in environment and command and part in command:
                found[int(entry.name)] = command
        return found

    def listens_on(self) -> set[str]:
        """Local addresses, as the kernel writes them, of the run's listening sockets."""
        inodes = set()
        for pid in self.pids():
            for descriptor in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    inodes.add(os.readlink(descriptor).removeprefix("socket:[").rstrip("]"))
        found = set()
        for table in ("tcp", "tcp6"):
            for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
                _, local, _, state, *rest = line.split()
                if state == "0A" and rest[5] in inodes:
                    found.add(local.partition(":")[0])
        return found

    def assert_nothing_is_left(self) -> None:
        wait_until(lambda: not self.pids(), report=self.pids)
        assert list(Path("/tmp").glob(f"vopd-ray-{self.process.pid}-*")) == []
