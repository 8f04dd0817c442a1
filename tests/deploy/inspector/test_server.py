"""The inspector's server: who is answered, with what headers, and what goes wrong in words."""

import asyncio
import contextlib
import json
import os
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest
from PIL import Image
from yarl import URL

from deploy.inspector.answers import Answer, InspectorAnswers
from deploy.inspector.inspected_run import InspectedRun
from deploy.inspector.scores import TokenScores
from deploy.inspector.server import serving
from tests.deploy.inspector.whole_run import SUMMARY, write_run

TOKEN = "a-token-of-the-tests"


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InspectorAnswers]:
    folder = write_run(tmp_path_factory.mktemp("served") / "run")
    with InspectedRun("a", folder) as run:
        found = InspectorAnswers([run])
        found.until_indexed(60.0)
        yield found


class Reply(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes

    def error(self) -> str:
        return str(json.loads(self.body)["error"])


class Client:
    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self.url = url

    async def ask(self, path: str, method: str = "GET", **head: str) -> Reply:
        fields = {name.replace("_", "-"): value for name, value in head.items()}
        url = URL(self.url + path, encoded=True)
        async with self._session.request(
            method, url, headers=fields, allow_redirects=False
        ) as reply:
            return Reply(reply.status, reply.headers, await reply.read())


@contextlib.asynccontextmanager
async def client(
    answers: InspectorAnswers,
    host: str = "127.0.0.1",
    token: str | None = None,
    limit_s: float = 60.0,
) -> AsyncIterator[Client]:
    jar = aiohttp.CookieJar(unsafe=True)  # keeps cookies of addresses, too
    async with (
        TokenScores() as scores,
        serving(answers, scores, host, 0, token, limit_s) as port,
        aiohttp.ClientSession(cookie_jar=jar) as session,
    ):
        yield Client(session, f"http://127.0.0.1:{port}")


async def test_page_and_answers_come_with_headers_that_keep_them_apart(
    answers: InspectorAnswers,
) -> None:
    async with client(answers) as mine:
        page = await mine.ask("/")
        assert page.status == 200 and "text/html" in page.headers["Content-Type"]
        policy = page.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
        assert page.headers["X-Content-Type-Options"] == "nosniff"
        again = await mine.ask("/", If_None_Match=page.headers["ETag"])
        assert again.status == 304
        script = await mine.ask("/main.js")
        assert script.headers["Content-Type"] == "text/javascript; charset=utf-8"
        found = await mine.ask("/api/trajectories?run=a&limit=50", Accept_Encoding="gzip")
        assert found.headers["Content-Encoding"] == "gzip"
        assert found.headers["Cache-Control"] == "no-store"
        assert len(json.loads(found.body)["rows"]) == 50
        runs = json.loads((await mine.ask("/api/runs")).body)
        assert runs["runs"][0]["summary"] == SUMMARY
        picture = await mine.ask("/api/picture?run=a&sample=s0&view=teacher&group=8%2F0")
        assert picture.headers["Content-Type"] == "image/png"
        assert picture.body.startswith(b"\x89PNG")


async def test_a_picture_is_asked_for_again_for_another_run_may_be_served_there(
    answers: InspectorAnswers, tmp_path: Path
) -> None:
    """Runs are served in turn at one port: the address of a picture names none."""
    path = "/api/picture?run=a&scene=0&view=full"
    async with client(answers) as mine:
        first = await mine.ask(path)
        assert "no-cache" in first.headers["Cache-Control"]
        assert (await mine.ask(path, If_None_Match=first.headers["ETag"])).status == 304
    folder = write_run(tmp_path / "other")
    scene = json.loads((folder / "scenes.json").read_text())["scenes"][0]
    Image.new("RGB", (5, 5), "red").save(scene["image"])
    with InspectedRun("a", folder) as run:
        async with client(InspectorAnswers([run])) as mine:
            other = await mine.ask(path, If_None_Match=first.headers["ETag"])
            assert other.status == 200 and other.body != first.body


async def test_another_host_or_site_is_turned_away(answers: InspectorAnswers) -> None:
    async with client(answers) as mine:
        own = mine.url
        turned_away = (
            {"Host": "rebound.example"},
            {"Origin": "https://elsewhere.example"},
            {"Origin": "null"},
            {"Origin": own, "Host": "rebound.example"},
            {"Sec_Fetch_Site": "cross-site"},
            {"Sec_Fetch_Site": "same-site"},
            {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "no-cors"},
        )
        for path in ("/", "/main.js", "/api/runs"):
            for head in turned_away:
                reply = await mine.ask(path, **head)
                assert reply.status == 403 and "Fix: " in reply.error(), (path, head)
            for head in ({"Origin": own}, {"Sec_Fetch_Site": "same-origin"}, {}):
                assert (await mine.ask(path, **head)).status == 200, (path, head)
        followed = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate"}
        assert (await mine.ask("/", **followed, Sec_Fetch_Dest="document")).status == 200
        assert (await mine.ask("/", **followed, Sec_Fetch_Dest="iframe")).status == 403
        assert (await mine.ask("/api/runs", **followed, Sec_Fetch_Dest="document")).status == 403


async def test_nothing_can_be_changed(answers: InspectorAnswers) -> None:
    async with client(answers) as mine:
        for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
            for path in ("/", "/main.js", "/api/runs", "/api/scores", "/api/picture"):
                assert (await mine.ask(path, method)).status == 405, (method, path)
        assert (await mine.ask("/api/runs", "HEAD")).status == 200


async def test_off_loopback_answers_need_the_token(answers: InspectorAnswers) -> None:
    async with client(answers, "0.0.0.0", TOKEN) as mine:
        assert (await mine.ask("/main.js")).status == 200  # holds nothing of a run
        for head in ({}, {"Authorization": "Bearer wrong"}, {"Cookie": "inspector-token=wrong"}):
            for path in ("/api/runs", "/api/picture?run=a&sample=s0"):
                assert (await mine.ask(path, **head)).status == 401, (path, head)
        assert (await mine.ask("/api/runs", Authorization=f"Bearer {TOKEN}")).status == 200
        refused = await mine.ask("/?token=wrong")
        assert refused.status == 401 and "Set-Cookie" not in refused.headers
        assert "the address that was printed" in refused.error()
        given = await mine.ask(f"/?token={TOKEN}")
        assert (given.status, given.headers["Location"]) == (303, "/")
        cookie = given.headers["Set-Cookie"]
        assert "HttpOnly" in cookie and "SameSite=Strict" in cookie
        assert (await mine.ask("/api/runs")).status == 200  # the client keeps the cookie
        assert (await mine.ask("/api/runs", Sec_Fetch_Site="cross-site")).status == 403


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/api/nothing", 404, "GET /api/nothing: Not Found"),
        ("/nothing.js", 404, "Not Found"),
        ("/../server.py", 404, "Not Found"),
        ("/api/curves?run=c", 400, "run = 'c': none. Fix: a"),
        ("/api/trajectories?run=a&sort=luck", 400, "sort = 'luck'"),
        ("/api/group?run=a&step=one&group=x", 400, "step = 'one'"),
        ("/api/group?run=a&step=1&group=x", 400, "no group 'x'"),
        ("/api/picture?run=a&sample=gone&view=full", 400, "sample gone is not in"),
        ("/api/picture?run=a&sample=s0&view=odd", 400, "view = 'odd'"),
        ("/api/picture?run=a&scene=7&view=full", 400, "scene '7'"),
        ("/api/scores?run=a&step=8&group=8%2F0", 400, "index"),
        (f"/api/trajectories?run=a&limit={'9' * 4500}", 400, "limit = "),
        (f"/api/trajectories?run=a&offset={'0' * 4500}1{'0' * 30}", 400, "offset = "),
        (f"/api/picture?run=a&scene={'9' * 4500}&view=full", 400, "scene = "),
    ],
)
async def test_what_cannot_be_answered_is_said(
    answers: InspectorAnswers, path: str, status: int, words: str
) -> None:
    async with client(answers) as mine:
        reply = await mine.ask(path)
        assert reply.status == status and words in reply.error()


async def test_a_file_that_is_no_picture_does_not_leave_the_machine(
    answers: InspectorAnswers, tmp_path: Path
) -> None:
    """scenes.json may be somebody else's."""
    secret = tmp_path / "secret"
    secret.write_text("a secret")
    folder = tmp_path / "run"
    folder.mkdir()
    scene = {"image": str(secret), "crop": str(tmp_path / "gone")}
    (folder / "scenes.json").write_text(json.dumps({"scenes": [scene]}))
    with InspectedRun("a", folder) as run:
        async with client(InspectorAnswers([run])) as mine:
            for view, words in (("full", "no picture"), ("crop", "cannot be read")):
                reply = await mine.ask(f"/api/picture?run=a&scene=0&view={view}")
                assert reply.status == 400 and words in reply.error()


async def test_a_run_that_was_moved_has_its_crops(tmp_path: Path) -> None:
    """scenes.json names files by where they were, where another run may be by now."""
    old, new = tmp_path / "old", tmp_path / "new"
    for folder, color in ((old, "red"), (new, "green")):
        (folder / "scenes").mkdir(parents=True)
        Image.new("RGB", (4, 4), color).save(folder / "scenes" / "00-crop.png")
        crop = str(old / "scenes" / "00-crop.png")
        (folder / "scenes.json").write_text(json.dumps({"scenes": [{"crop": crop}]}))
    with InspectedRun("a", new) as run:
        async with client(InspectorAnswers([run])) as mine:
            reply = await mine.ask("/api/picture?run=a&scene=0&view=crop")
    assert reply.body == (new / "scenes" / "00-crop.png").read_bytes()


async def test_a_scene_s_picture_is_a_file_that_ends(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(2**30)
    scenes = [{"image": str(path)} for path in (tmp_path / "pipe", "/dev/zero", large, tmp_path)]
    (tmp_path / "scenes.json").write_text(json.dumps({"scenes": scenes}))
    with InspectedRun("a", tmp_path) as run:
        async with client(InspectorAnswers([run])) as mine:
            for number in range(len(scenes)):
                reply = await mine.ask(f"/api/picture?run=a&scene={number}&view=full")
                assert reply.status == 400 and "cannot be read" in reply.error()


class Stuck(InspectorAnswers):
    """Its answers come when they are let go."""

    def __init__(self) -> None:
        super().__init__([])
        self.let_go = threading.Event()

    def to(self, name: str, parameters: Mapping[str, str]) -> Answer | None:
        answer: dict[str, Any] | None = {} if self.let_go.wait(60) else None
        return answer


async def test_an_answer_that_takes_too_long_is_given_up() -> None:
    stuck = Stuck()
    async with client(stuck, limit_s=0.05) as mine:
        reply = await mine.ask("/api/curves")
        assert reply.status == 503 and "Fix: try again" in reply.error()
        assert (await mine.ask("/")).status == 200  # the others go on
        stuck.let_go.set()


async def test_those_who_only_connect_are_few(answers: InspectorAnswers) -> None:
    async with client(answers) as mine, contextlib.AsyncExitStack() as silent, asyncio.timeout(60):
        host, port = mine.url.removeprefix("http://").split(":")
        for _ in range(64 + 1):
            reader, writer = await asyncio.open_connection(host, int(port))
            silent.callback(writer.close)
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""


class StuckExplanation(Stuck):
    """It answers at once, but for `explain`."""

    def to(self, name: str, parameters: Mapping[str, str]) -> Answer | None:
        return super().to(name, parameters) if name == "explain" else {}


async def test_an_explanation_that_takes_long_keeps_no_other_question_waiting() -> None:
    stuck = StuckExplanation()
    async with client(stuck) as mine, asyncio.TaskGroup() as tasks:
        waiting = [tasks.create_task(mine.ask("/api/explain")) for _ in range(6)]
        async with asyncio.timeout(30):
            for _ in range(20):
                assert (await mine.ask("/api/curves")).status == 200
        assert not any(task.done() for task in waiting)
        stuck.let_go.set()
    assert [task.result().status for task in waiting] == [200] * 6


async def test_two_inspectors_of_a_host_have_cookies_of_their_own(
    answers: InspectorAnswers,
) -> None:
    """Browsers give a cookie to every port of a host."""
    async with (
        client(answers, "0.0.0.0", TOKEN) as mine,
        client(answers, "0.0.0.0", "another-token") as other,
    ):
        given = [await one.ask(f"/?token={token}") for one, token in
                 ((mine, TOKEN), (other, "another-token"))]  # fmt: skip
        cookies = "; ".join(reply.headers["Set-Cookie"].split(";")[0] for reply in given)
        async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
            for one in (mine, other):
                browser = Client(session, one.url)
                assert (await browser.ask("/api/runs", Cookie=cookies)).status == 200
                assert (await browser.ask("/api/runs")).status == 401
