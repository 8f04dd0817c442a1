"""A run folder as the inspector finds it: whole, half-written, of an older format, or read-only.

Nothing here raises for what a folder lacks: that is said in notes. config.toml is read as it is,
not as today's configuration, so that a run of another version opens.
"""

import socket
import tomllib
from pathlib import Path
from typing import Any, Literal

from common.errors import VisionOpdError
from common.files import json_object_or_empty
from common.journal_file import has_journal
from common.lifecycle import is_alive
from common.trained import FOLDER as TRAINED
from common.trained import trained_files
from deploy.inspector.heldout import heldout_files
from deploy.supervision.process_table import read_processes

State = Literal["starting", "training", "finished", "interrupted", "stopped"]
_LAUNCHER = "launcher.json"  # as `deploy.supervision.launcher_api` has it; that loads for 0.1 s
_READING = "reading.json"  # as `common.kept_reading` has it; likewise
_OVER = ("ended", "given up")


class RunFolder:
    """What stands in a run folder; it is looked at anew with each question."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def state(self, step: int) -> State:
        """Where the run is.

        Args:
            step: the newest one that was trained; 0: none.
        """
        summary = self.summary()
        if summary:
            return "interrupted" if summary.get("interrupted") else "finished"
        if not self._may_go_on():
            return "stopped"
        return "training" if step else "starting"

    def _may_go_on(self) -> bool:
        """Whether a launcher is there, or, where none has left a word, processes by hand may be."""
        launcher = json_object_or_empty(self.path / _LAUNCHER)
        if launcher:
            is_here = launcher.get("host") == socket.gethostname()
            pid = launcher.get("pid")
            return not (is_here and isinstance(pid, int)) or is_alive(pid)
        try:
            entries = read_processes(self.path)
        except VisionOpdError:
            return has_journal(self.path)
        return not all(entry.state in _OVER for entry in entries)

    def summary(self) -> dict[str, Any]:
        """RUN/summary.json; {} while the run is not over."""
        return json_object_or_empty(self.path / "summary.json")

    def setting(self, section: str, key: str) -> Any:
        """A value of config.toml; None means that it is not there."""
        found = self._config().get(section)
        return found.get(key) if isinstance(found, dict) else None

    def train_file(self) -> Path | None:
        """The data that is trained on. None means that the folder names none.

        data.train may be relative to where the launcher was started; the reading is not.
        """
        read = json_object_or_empty(self.path / _READING).get("dataset")
        name = read or self.setting("data", "train")
        return Path(name) if isinstance(name, str) else None

    def total_steps(self) -> int | None:
        """How many steps the run is to have. None means that its folder does not say."""
        most = self.setting("learner", "max_steps")
        reading = json_object_or_empty(self.path / _READING)
        rows, bad = reading.get("num_rows"), reading.get("bad_rows")
        groups = self.setting("learner", "groups_per_step")
        if not (isinstance(rows, int) and isinstance(bad, list) and isinstance(groups, int)):
            return most if isinstance(most, int) else None
        epochs = self.setting("data", "epochs")
        of_data = (rows - len(bad)) * (epochs if isinstance(epochs, int) else 1) // max(groups, 1)
        return min(of_data, most) if isinstance(most, int) else of_data

    def has(self) -> dict[str, bool]:
        """Which parts of the page have something to show."""
        return {
            "trajectories": bool(trained_files(self.path / TRAINED)),
            "heldout": bool(heldout_files(self.path)),
            "groups": (self.path / "groups.jsonl").is_file(),
            "journal": has_journal(self.path),
            "plan": (self.path / "plan.json").is_file(),
        }

    def notes(self, step: int) -> list[str]:
        """What the folder lacks, in words. `step` as for `state`."""
        notes = []
        try:
            self._read_config()
        except FileNotFoundError:
            notes.append("there is no config.toml: this may be no run folder")
        except (OSError, ValueError) as error:
            notes.append(f"config.toml cannot be read: {error}")
        if step and not trained_files(self.path / TRAINED):
            notes.append(
                f"there is no {TRAINED}/: the run is of an older version, which kept no "
                "trajectories, or does not keep them"
            )
        for name in ("summary.json", "plan.json"):
            path = self.path / name
            if path.is_file() and not json_object_or_empty(path):
                notes.append(f"{name} is damaged")
        return notes

    def _config(self) -> dict[str, Any]:
        try:
            return self._read_config()
        except (OSError, ValueError):
            return {}

    def _read_config(self) -> dict[str, Any]:
        with (self.path / "config.toml").open("rb") as file:
            return tomllib.load(file)
