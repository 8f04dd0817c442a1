"""What a stranger may try: one list of wishes (tests/security/stranger.py) for each protocol."""

import base64
import json
import subprocess
import sys
from types import SimpleNamespace
from typing import Any, NamedTuple

from broker import protocol as p
from common.http_gate import Gate
from common.types import WeightFiles, WeightUpdate
from common.wire import encode
from rollout.embedded.chat import ChatServer
from rollout.embedded.server import EngineServer
from tests.security import stranger
from tests.security.doors import Port

Wish = dict[str, Any]
APPROACHES: dict[str, dict[str, str]] = {
    "no key": {},
    "wrong key": {"Authorization": "Bearer 0123456789abcdef"},
    "web page": {"Origin": "http://elsewhere.example", "Content-Type": "text/plain"},
    "other name": {"Host": "elsewhere.example"},
}
TURNED_AWAY = {"no key": 401, "wrong key": 401, "web page": 403, "other name": 403}
# One method of each of Ray's services that listen.
_RAY_METHODS = (
    "/ray.rpc.InternalKVGcsService/InternalKVKeys",
    "/ray.rpc.NodeManagerService/GetSystemConfig",
    "/ray.rpc.CoreWorkerService/GetCoreWorkerStats",
)


class Tried(NamedTuple):
    """One wish and what became of it."""

    where: str
    asked: str
    approach: str  # of HTTP
    answer: Any


def try_all(wishes: list[tuple[str, Wish]]) -> list[Tried]:
    """What another user of the machine gets, who needs root to be made.

    Args:
        wishes: with the name of the place.
    """
    done = subprocess.run(
        [sys.executable, stranger.__file__],
        input=json.dumps([wish for _, wish in wishes]),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    return [
        Tried(where, _words(wish), _approach(wish), answer)
        for (where, wish), answer in zip(wishes, answers, strict=True)
    ]


def table(tried: list[Tried]) -> str:
    """A line for each place and request; HTTP by the statuses of all approaches."""
    rows: dict[tuple[str, str], list[str]] = {}
    for one in tried:
        rows.setdefault((one.where, one.asked), []).append(_in_short(one))
    wide = [max(len(row[place]) for row in rows) for place in (0, 1)]
    return "\n".join(
        f"{where:<{wide[0]}}  {asked:<{wide[1]}}  {', '.join(answers)}"
        for (where, asked), answers in rows.items()
    )


def http_wishes(port: Port, routes: list[tuple[str, str]]) -> list[Wish]:
    """Each route without a key and with a wrong one, as a web page, and under another name."""
    here = {"kind": "http", "host": port.host, "port": port.port}
    return [
        {**here, "method": method, "path": path, "headers": headers,
         "body": "{}" if method == "POST" else None}
        for method, path in routes
        for headers in APPROACHES.values()
    ]  # fmt: skip


def broker_wish(port: Port) -> Wish:
    frames = [base64.b64encode(encode(request)).decode() for request in broker_requests()]
    return {"kind": "broker", "address": f"tcp://{port.host}:{port.port}", "frames": frames}


def ray_wishes(port: Port) -> list[Wish]:
    here = {"kind": "grpc", "host": port.host, "port": port.port}
    return [{**here, "method": method} for method in _RAY_METHODS]


def listen_wish(port: Port) -> Wish:
    return {"kind": "listen", "host": port.host, "port": port.port}


def embedded_routes() -> list[tuple[str, str]]:
    """(method, path) of all that the embedded engine serves."""
    nothing: Any = SimpleNamespace(
        init_group=None, destroy_group=None, begin=None, receive=None, load_folder=None, end=None
    )
    parts = {"scheduler": nothing, "prompts": nothing, "vocabulary": nothing}
    chat = ChatServer(model_name="", template=nothing, defaults={}, **parts)
    server = EngineServer(model_path="", updates=nothing, chat=chat, facts={}, **parts)
    routes = server.application(Gate("127.0.0.1", None)).router.routes()
    return sorted({(r.method, r.resource.canonical) for r in routes if r.resource is not None})


def broker_requests() -> list[p.Record]:
    """One of each kind that the broker understands, a hello in every role."""
    who: dict[str, Any] = {"member_id": "stranger", "incarnation": 1}
    files = WeightFiles(folder="/nowhere", sha256={})
    update = WeightUpdate(
        version=1, history=1, attempt=0, recipients={}, source=files, buckets=()
    )  # fmt: skip
    return [
        p.GetStatus(), p.GetImage(sha256="0" * 64),
        *(p.Hello(role=role, **who) for role in p.Role), p.Heartbeat(**who), p.Goodbye(**who),
        p.LeaseRequest(max_groups=1, history=0, serving_version=0, wait_s=0, **who),
        p.SubmitGroups(groups=(b"",), **who),
        p.GiveBack(group_id="0", attempt=1, reason="", blame=p.Blame.SAMPLE, **who),
        p.TakeBatch(step=1, wait_s=0, **who), p.AckBatch(step=1, batch_id=0, **who),
        p.Resume(step=0, **who), p.CommitStep(step=0, oldest=0, **who),
        p.AnnounceWeights(update=update, **who), p.WatchWeights(seen_serial=0, wait_s=0, **who),
        p.AckWeights(history=0, version=0, **who), p.WatchMembers(at_least=0, wait_s=0, **who),
        p.Finish(reason="", **who), *_measuring_requests(who),
    ]  # fmt: skip


def _measuring_requests(who: dict[str, Any]) -> list[p.Record]:
    return [
        p.OrderMeasurement(
            number=1, history=0, version=0, sample_ids=("s0",), max_tokens=1, **who
        ),
        p.ReadMeasurement(number=1, seen=0, is_pinned=False, wait_s=0, **who),
        p.DropMeasurement(number=1, **who),
        p.LeaseAnswers(history=0, serving_version=0, max_items=1, wait_s=0, **who),
        p.SubmitAnswers(number=1, **who),
    ]  # fmt: skip


def _in_short(one: Tried) -> str:
    if one.approach:
        return f"{one.approach} {one.answer[0]}"
    if isinstance(one.answer, dict):
        return ", ".join(f"{len(paths)} {what}" for what, paths in one.answer.items())
    return str(one.answer or "nothing")


def _words(wish: Wish) -> str:
    names = ("method", "path", "address", "folder", "pid")
    return " ".join([wish["kind"], *(str(wish[name]) for name in names if name in wish)])


def _approach(wish: Wish) -> str:
    headers = wish.get("headers")
    return next((name for name, fields in APPROACHES.items() if fields == headers), "")
