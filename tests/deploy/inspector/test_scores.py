"""Scores of a group: computed by one process at a time, kept in files, impossible in words."""

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

from common.lifecycle import is_alive
from deploy.inspector.scores import TokenScores
from tests.waiting import until

# Stands for learner.rescore: says that it is there, waits to be let go, and answers.
PROGRAM = """
import json, os, sys, time
config, out, device = (sys.argv[sys.argv.index(name) + 1] for name in ("--config", "--out", "--device"))
request = json.load(sys.stdin)
folder = os.path.dirname(config)
with open(os.path.join(folder, "asked"), "a") as file:
    file.write(json.dumps({"pid": os.getpid(), "device": device, **request}) + chr(10))
with open(os.path.join(folder, "alone"), "x"):
    pass
while os.path.exists(os.path.join(folder, "wait")):
    time.sleep(0.01)
os.unlink(os.path.join(folder, "alone"))
if os.path.exists(os.path.join(folder, "refuse")):
    print("some warning", file=sys.stderr)
    sys.exit("cannot rescore: it is gone. Fix: bring it back")
if os.path.exists(os.path.join(folder, "die")):
    os.kill(os.getpid(), 9)
tops = [[{"student": [[str(i), 0.5]], "teacher": []} for i in ids] for ids in request["responses"]]
answer = {"checkpoint_step": 3, "responses": [{"divergence": [], "positions": t} for t in tops]}
with open(out, "w") as file:
    json.dump(answer, file)
"""  # noqa: E501


SERVER = """
import asyncio, json, sys
from pathlib import Path
from deploy.inspector.scores import TokenScores

async def main():
    run, group, *command = sys.argv[1:]
    async with TokenScores(command=command) as scores:
        await scores.scores(Path(run), Path(run) / "scores", json.loads(Path(group).read_text()), 0)
        await asyncio.Event().wait()

asyncio.run(main())
"""


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.toml").touch()
    return folder


@pytest.fixture
def program(tmp_path: Path) -> list[str]:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    return [sys.executable, str(path)]


def group(group_id: str = "0/7", step: int = 4, first: int = 5) -> dict:
    ids = [[first, 6], [7]]
    return {
        "step": step,
        "group_id": group_id,
        "sample": {"sample_id": "s1"},
        "trajectories": [
            {"index": index, "tokens": [{"id": number} for number in own]}
            for index, own in zip((0, 2), ids, strict=True)
        ],
    }


def asked(run: Path) -> list[dict]:
    path = run / "asked"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


async def answer(scores: TokenScores, run: Path, of: dict, index: int = 0) -> dict:
    """The first answer that is not "working"."""
    found: dict = {}

    async def is_there() -> bool:
        found.update(await scores.scores(run, run / "scores", of, index))
        return found["state"] != "working"

    await until(is_there)
    return found


async def test_a_group_is_computed_once_for_all_its_trajectories(run, program):
    async with TokenScores(command=program) as scores:
        (run / "wait").touch()
        assert await scores.scores(run, run / "scores", group(), 0) == {"state": "working"}
        await until(lambda: bool(asked(run)))
        assert await scores.scores(run, run / "scores", group(), 2) == {"state": "working"}
        (run / "wait").unlink()
        first = await answer(scores, run, group())
        assert first == {
            "state": "done", "checkpoint_step": 3, "divergence": [],
            "positions": [{"student": [[name, 0.5]], "teacher": []} for name in "56"],
        }  # fmt: skip
        other = await answer(scores, run, group(), 2)
        assert [position["student"][0][0] for position in other["positions"]] == ["7"]
    async with TokenScores(command=program) as scores:  # the file outlives the server
        assert (await scores.scores(run, run / "scores", group(), 0))["state"] == "done"
        # Of a step that was undone and trained again.
        again = await answer(scores, run, group(first=8))
        assert again["positions"][0]["student"] == [["8", 0.5]]
    requests = asked(run)
    assert [request["responses"] for request in requests] == [[[5, 6], [7]], [[8, 6], [7]]]
    assert requests[0]["step"] == 4 and requests[0]["group_id"] == "0/7"
    assert requests[0]["sample_id"] == "s1" and requests[0]["device"] == "cpu"


async def test_one_process_computes_at_a_time(run, program):
    """The program fails if another one is at work."""
    groups = [group(f"0/{number}") for number in range(3)]
    async with TokenScores("cuda", command=program) as scores:
        for one in groups:
            assert (await scores.scores(run, run / "scores", one, 0))["state"] == "working"
        assert [(await answer(scores, run, one))["state"] for one in groups] == ["done"] * 3
    assert {request["device"] for request in asked(run)} == {"cuda"}


async def test_what_is_impossible_is_told_in_words_and_tried_again_later(run, program):
    clock = Clock()
    async with TokenScores(command=program, clock=clock) as scores:
        (run / "refuse").touch()
        found = await answer(scores, run, group())
        reason = "cannot rescore: it is gone. Fix: bring it back"
        assert found == {"state": "impossible", "reason": reason}
        (run / "refuse").unlink()
        assert await scores.scores(run, run / "scores", group(), 0) == found
        clock.now_s += 31
        assert (await answer(scores, run, group()))["state"] == "done"
        (run / "die").touch()
        died = await answer(scores, run, group("0/8"))
        assert "ended by signal 9" in died["reason"]
        strange = await scores.scores(run, run / "scores", group(), 1)
        assert strange["reason"] == "index = 1: the group has [0, 2]"


async def test_a_folder_that_cannot_be_written_and_a_missing_program_are_reasons(run, program):
    (run / "scores").touch()
    async with TokenScores(command=program) as scores:
        found = await answer(scores, run, group())
        assert found["state"] == "impossible" and "File exists" in found["reason"]
        (run / "scores").unlink()
    async with TokenScores(command=[str(run / "none")]) as scores:
        assert "No such file" in (await answer(scores, run, group()))["reason"]
    (run / "config.toml").write_text("[no_such_section]\nkey = 1\n")
    async with TokenScores() as scores:
        assert "no_such_section" in (await answer(scores, run, group()))["reason"]


async def test_the_process_ends_with_the_server_and_when_it_takes_too_long(run, program):
    (run / "wait").touch()
    async with TokenScores(command=program) as scores:
        await scores.scores(run, run / "scores", group(), 0)
        await scores.scores(run, run / "scores", group("0/8"), 0)  # waits for its turn
        await until(lambda: bool(asked(run)))
        pid = asked(run)[0]["pid"]
        assert is_alive(pid)
    assert not is_alive(pid) and len(asked(run)) == 1
    os.unlink(run / "alone")
    async with TokenScores(command=program, timeout_s=0.5) as scores:
        found = await answer(scores, run, group())
    assert found["reason"] == "the scores were not there within 0.5 s"


async def test_a_server_that_is_killed_leaves_no_process(run, program, tmp_path):
    (run / "wait").touch()
    (tmp_path / "group.json").write_text(json.dumps(group()))
    server = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SERVER, str(run), str(tmp_path / "group.json"), *program
    )
    await until(lambda: bool(asked(run)))
    pid = asked(run)[0]["pid"]
    assert is_alive(pid)
    server.kill()
    await server.wait()
    await until(lambda: not is_alive(pid))


async def test_no_more_is_begun_than_a_bound_and_the_oldest_files_go(run, program):
    (run / "wait").touch()
    async with TokenScores(command=program) as scores:
        for number in range(40):
            await scores.scores(run, run / "scores", group(f"0/{number}"), 0)
        assert len(asyncio.all_tasks()) < 12
    (run / "wait").unlink()
    (run / "alone").unlink(missing_ok=True)
    for number in range(410):
        path = run / "scores" / f"{number}.json"
        path.write_text("{}")
        os.utime(path, (number, number))
    async with TokenScores(command=program) as scores:
        await answer(scores, run, group())
    names = {path.name for path in (run / "scores").iterdir()}
    assert len(names) == 400 and "409.json" in names and "0.json" not in names
