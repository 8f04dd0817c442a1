"""`python -m rollout.evaluate` and `rollout.gap`, run as people run them.

Holds rollout/evaluation/command.py, rollout/evaluation/target.py, rollout/evaluation/terminal.py.
"""

import asyncio
import base64
import json
import signal
import sys
from pathlib import Path

import pytest

from common.errors import ConfigError
from rollout.evaluate import _arguments, main
from rollout.evaluation.arguments import plan_of, sets_named
from rollout.evaluation.settings import Target
from tests.rollout.evaluation.chat_server import MODEL, ChatServer, Fault, Said
from tests.rollout.evaluation.tiny_set import items, number_in, right

ROOT = Path(__file__).resolve().parents[2]
COUNT = 9


@pytest.fixture
def questions(tmp_path: Path) -> str:
    """Name of a set of one's own, with crops."""
    path = tmp_path / "questions.jsonl"
    lines = [
        {
            "id": item.id,
            "question": item.question,
            "options": dict(item.options),
            "answer": item.answer,
            "picture": base64.b64encode(item.picture).decode(),
            "crop": base64.b64encode(item.crop or b"").decode(),
            **item.fields,
        }
        for item in items(COUNT)
    ]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return f"custom:{path}"


async def run(*arguments: str, stop_when: asyncio.Event | None = None) -> tuple[int, str, str]:
    """A command's exit code and what it says; Ctrl-C is sent once `stop_when` is set."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", *arguments, cwd=ROOT,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(120):
        if stop_when is not None:
            await stop_when.wait()
            process.send_signal(signal.SIGINT)
        said, told = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode(), told.decode()


async def test_an_endpoint_is_measured_then_scored_again_offline(
    tmp_path: Path, questions: str
) -> None:
    key = tmp_path / "key"
    key.write_text("right")
    key.chmod(0o600)
    out = tmp_path / "result"
    async with ChatServer(right, key="right").running() as server:
        server.context = 4096
        command = ("--endpoint", server.url.removesuffix("/v1"), "--sets", questions)
        more = ("--out", str(out), "--api-key-file", str(key), "--no-thinking")
        code, said, told = await run("rollout.evaluate", *command, *more)
    assert code == 0, told
    assert said.splitlines()[1].split()[1:5] == ["100.00", "70.09", "to", "100.00"]
    body = server.bodies[0]
    assert (body["model"], body["max_tokens"]) == (MODEL, 2048)  # half of the context
    assert body["chat_template_kwargs"] == {"enable_thinking": False}
    first = (out / "result.json").read_text()
    code, again, told = await run("rollout.evaluate", "--rescore", "--out", str(out))
    assert (code, again) == (0, said), told
    documents = [json.loads(text) for text in (first, (out / "result.json").read_text())]
    assert documents[0]["sets"] == documents[1]["sets"]
    assert documents[0]["identity"] == documents[1]["identity"]


async def test_ctrl_c_ends_with_130_and_the_same_command_goes_on(
    tmp_path: Path, questions: str
) -> None:
    reached, is_hanging = asyncio.Event(), True

    def answering(text: str, earlier: int) -> Said | Fault:
        if number_in(text) < 4 or not is_hanging:
            return right(text)
        reached.set()
        return Fault("hang")

    async with ChatServer(answering).running() as server:
        command = ("rollout.evaluate", "--endpoint", server.url, "--sets", questions,
                   "--out", str(tmp_path / "result"), "--concurrency", "2")  # fmt: skip
        code, said, told = await run(*command, stop_when=reached)
        assert code == 130, told
        assert "the same command goes on" in said
        server.bodies.clear()
        is_hanging = False
        code, said, told = await run(*command)
    assert code == 0, told
    assert sorted(map(number_in, server.texts)) == list(range(4, COUNT))


async def test_the_gap_is_told_with_a_sentence(tmp_path: Path, questions: str) -> None:
    def sees_crops_alone(text: str, earlier: int) -> Said:
        return right(text) if earlier == 0 else Said("(D)")  # crops come first

    out = tmp_path / "gap"
    async with ChatServer(sees_crops_alone).running() as server:
        code, said, told = await run(
            "rollout.gap", "--endpoint", server.url, "--sets", questions, "--out", str(out)
        )
    assert code == 0, told
    assert "There is something to teach here: the crop is worth +100.0 points" in said
    found = json.loads((out / "gap.json").read_text())["sets"][questions]
    assert (found["crop"][0], found["full"][0], found["pairs"]) == (1.0, 0.0, COUNT)
    pictures = [body["messages"][0]["content"][0]["image_url"]["url"] for body in server.bodies]
    crop = "data:image/png;base64," + base64.b64encode(items(COUNT)[0].crop or b"").decode()
    assert crop in pictures[:COUNT] and crop not in pictures[COUNT:]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--sets", "vstar"], "name one model"),
        (["--endpoint", "http://h", "--checkpoint", "x", "--sets", "vstar"], "name one model"),
        (["--endpoint", "http://h", "--lables", "paper"], "unknown option --lables"),
        (["--endpoint", "ftp://h", "--sets", "vstar"], "not the URL of a server"),
        (["--checkpoint", "x", "--model", "m"], "--model is about an endpoint"),
        (["--checkpoint", "/nowhere", "--sets", "vstar"], "no such folder"),
        (["--rescore", "--endpoint", "http://h"], "--rescore asks no model"),
        (["--rescore"], "identity.json"),
    ],
)
def test_what_cannot_be_is_refused_with_its_fix(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], word: str
) -> None:
    with pytest.raises(SystemExit) as end:
        main([*arguments, "--out", str(tmp_path / "result")])
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert word in said and "Fix: " in said
    assert not (tmp_path / "result").exists()


async def test_an_endpoint_with_several_models_wants_a_name(tmp_path: Path, questions: str) -> None:
    async with ChatServer(right).running() as server:
        server.models = ["one", "two"]
        command = ("rollout.evaluate", "--endpoint", server.url, "--sets", questions)
        code, _, told = await run(*command, "--out", str(tmp_path / "result"))
        assert code == 2 and "several models: one, two. Fix: --model NAME" in told
        code, _, told = await run(*command, "--out", str(tmp_path / "result"), "--model", "two")
    assert code == 0, told
    assert {body["model"] for body in server.bodies} == {"two"}


@pytest.mark.parametrize(
    ("asked", "context", "max_tokens"),
    [
        (None, None, 32768),
        (None, 262144, 32768),
        (None, 4096, 2048),
        (100, 4096, 100),
        (100, None, 100),
    ],
)
def test_replies_may_be_as_long_as_published_or_half_of_the_context(
    tmp_path: Path, asked: int | None, context: int | None, max_tokens: int
) -> None:
    given = [] if asked is None else ["--max-tokens", str(asked)]
    options, _ = _arguments(["--endpoint", "h", "--sets", "vstar", "--out", str(tmp_path), *given])
    plan = plan_of(options, Target("", "m", context_tokens=context), "full")
    assert plan.settings.max_tokens == max_tokens


@pytest.mark.parametrize("names", ["", " , ", "vstar,vstar", "vstra"])
def test_sets_that_cannot_be_are_refused(names: str) -> None:
    with pytest.raises(ConfigError, match="Fix: "):
        sets_named(names)
