"""What student and teacher hold likely at each token of a group, computed for who asks.

    ask --> kept in a file? done
        --> a process computes it, one at a time: working --> a file | a reason, for a while

`learner.rescore` is that process: the lowest priority, a thread, and no GPU unless the inspector
may take an idle one. It computes whole groups, so that the next trajectory is there at once.
"""

import asyncio
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self
from urllib.parse import quote

from common.cpu_threads import sleeping_threads
from common.errors import ConfigError
from common.lifecycle import die_with_parent

if TYPE_CHECKING:
    from common.config import RunConfig

_ROOT = Path(__file__).resolve().parents[2]
_TOP = 10  # tokens a position and side
_TIMEOUT_S = 1800.0  # a large model on a thread of a CPU takes minutes to load
_FORGET_S = 30.0  # after which a reason is forgotten: the next question tries again
_MOST_UNDER_WAY = 8  # groups; others begin when they are asked for again
_MOST_FILES = 400
_LAST_WORDS = 400  # characters of an error
Answer = dict[str, Any]


class _Failure(NamedTuple):
    reason: str
    at_s: float


class _Request(NamedTuple):
    """A group to be scored."""

    run: Path
    file: Path  # where the scores are, or will be
    text: str  # of the request, JSON

    @classmethod
    def of(cls, run: Path, folder: Path, group: Mapping[str, Any]) -> Self:
        trajectories = group["trajectories"]
        request = {
            "sample_id": group["sample"]["sample_id"],
            "group_id": group["group_id"],
            "step": group["step"],
            "responses": [[token["id"] for token in t["tokens"]] for t in trajectories],
            "top_k": _TOP,
        }
        text = json.dumps(request)
        # A step that was undone may come again, with other tokens.
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        name = f"{group['step']:06d}-{quote(group['group_id'], safe='')}-{digest}.json"
        return cls(run, folder / name, text)


class TokenScores:
    """Scores of groups. A context, which ends with its processes; for one event loop.

    Args:
        device: "cuda" takes an idle GPU, where there is one.
        command: computes. None means `learner.rescore`, by the Python that learners have.
        clock: seconds.
    """

    def __init__(
        self,
        device: Literal["cpu", "cuda"] = "cpu",
        command: Sequence[str] | None = None,
        timeout_s: float = _TIMEOUT_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._device = device
        self._command = command
        self._timeout_s = timeout_s
        self._clock = clock
        self._turn = asyncio.Lock()
        self._tasks = asyncio.TaskGroup()
        self._under_way: dict[Path, asyncio.Task[None]] = {}
        self._failures: dict[Path, _Failure] = {}

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._under_way.values():
            task.cancel()
        await self._tasks.__aexit__(None, None, None)

    async def scores(self, run: Path, folder: Path, group: Mapping[str, Any], index: int) -> Answer:
        """The scores of a trajectory: "done", "working", or "impossible" with the reason.

        Args:
            run: its folder.
            folder: for files of scores.
            group: as the API answers `group`.
            index: of the trajectory.
        """
        numbers = [trajectory["index"] for trajectory in group["trajectories"]]
        if index not in numbers:
            return _impossible(f"index = {index}: the group has {numbers}")
        if not all(trajectory["tokens"] for trajectory in group["trajectories"]):
            return _impossible("a trajectory of the group has no token")
        request = _Request.of(run, folder, group)
        found = await asyncio.to_thread(_read, request.file)
        if found is not None:
            responses = found.pop("responses")
            return {"state": "done", **found, **responses[numbers.index(index)]}
        failure = self._failures.get(request.file)
        if failure is not None and self._clock() - failure.at_s < _FORGET_S:
            return _impossible(failure.reason)
        if request.file not in self._under_way and len(self._under_way) < _MOST_UNDER_WAY:
            self._under_way[request.file] = self._tasks.create_task(self._compute(request))
        return {"state": "working"}

    async def _compute(self, request: _Request) -> None:
        try:
            async with self._turn:
                reason = await self._run(request)
        except (OSError, subprocess.SubprocessError) as error:
            reason = str(error)
        finally:
            del self._under_way[request.file]
        if reason is not None:
            self._failures[request.file] = _Failure(reason, self._clock())

    async def _run(self, request: _Request) -> str | None:
        """Why there are no scores; None means that there are. Raises OSError."""
        request.file.parent.mkdir(parents=True, exist_ok=True)
        _remove_oldest(request.file.parent)
        config_file = request.run.absolute() / "config.toml"
        try:
            from common.config_cli import load  # 0.2 s, which no first page needs

            command = self._command or _command(load(["--config", str(config_file)]))
        except ConfigError as error:
            return str(error)
        process = await asyncio.create_subprocess_exec(
            *command, "--config", str(config_file), "--out", str(request.file.absolute()),
            "--device", self._device,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            cwd=_ROOT,
            env=_environment(self._device),
            start_new_session=True,  # a Ctrl-C in the terminal is the server's to handle
            preexec_fn=die_with_parent,
        )  # fmt: skip
        try:
            async with asyncio.timeout(self._timeout_s):
                _, errors = await process.communicate(request.text.encode())
        except TimeoutError:
            return f"the scores were not there within {self._timeout_s:g} s"
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        code = await process.wait()
        return _reason(code, errors) if code else None


def _command(config: "RunConfig") -> tuple[str, ...]:
    python = config.learner_pool.python
    is_here = python is not None and python.is_file()
    return (str(python) if is_here else sys.executable, "-m", "learner.rescore")


def _environment(device: str) -> dict[str, str]:
    """The hub is not asked for anything, and a GPU is not even looked at unless it may be used."""
    hidden = {} if device == "cuda" else {"CUDA_VISIBLE_DEVICES": ""}
    quiet = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return {**os.environ, **sleeping_threads(), **quiet, **hidden}


def _reason(code: int, errors: bytes) -> str:
    lines = [line for line in errors.decode(errors="replace").splitlines() if line.strip()]
    words = lines[-1][-_LAST_WORDS:] if lines else "it said nothing"
    ended = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
    return words if code in (1, 2) else f"the process {ended} (no memory left?): {words}"


def _impossible(reason: str) -> Answer:
    return {"state": "impossible", "reason": reason}


def _read(file: Path) -> Answer | None:
    """What a file of scores holds. None means that there is none."""
    try:
        found: Answer = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found


def _remove_oldest(folder: Path) -> None:
    """Make room for another file, if there are very many. Raises OSError."""
    files = sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime)
    for path in files[: max(0, len(files) + 1 - _MOST_FILES)]:
        path.unlink(missing_ok=True)
