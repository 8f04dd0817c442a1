"""What stands before SGLang: the gate, and what may be a picture. The real server is elsewhere.

Holds rollout/embedded/pictures.py.
"""

import io
import sys
import types
from typing import Any

import pytest
from PIL import Image

from common.http_gate import Gate
from rollout.embedded import pictures
from rollout.sglang import media
from rollout.sglang.media import take_no_files
from rollout.sglang.port_gate import PortGate
from tests.rollout.support import data_url, png

HEAD = [(b"host", b"127.0.0.1:1")]
WITH_KEY = [*HEAD, (b"authorization", b"Bearer s3cret")]


async def through(kind: str, headers: list[tuple[bytes, bytes]]) -> list[dict[str, Any]]:
    """What is sent for a request; the application behind the gate sends "let in"."""
    sent: list[dict[str, Any]] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "let in"})

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async def receive() -> dict[str, Any]:
        raise AssertionError("nothing is read of a request that is turned away")

    port_gate = PortGate(application, Gate("127.0.0.1", "s3cret"))
    await port_gate({"type": kind, "headers": headers}, receive, send)
    return sent


@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_the_door_lets_in_who_has_the_key(kind: str) -> None:
    assert await through(kind, WITH_KEY) == [{"type": "let in"}]


async def test_the_servers_own_start_and_end_pass() -> None:
    assert await through("lifespan", []) == [{"type": "let in"}]


@pytest.mark.parametrize(
    ("headers", "status"),
    [(HEAD, 401), ([], 403), ([*WITH_KEY, (b"origin", b"http://elsewhere.example")], 403),
     ([(b"host", b"elsewhere.example"), WITH_KEY[1]], 403),
     ([*HEAD, (b"authorization", b"\xe9")], 401)],
)  # fmt: skip
async def test_others_are_answered_at_the_door(
    headers: list[tuple[bytes, bytes]], status: int
) -> None:
    start, body = await through("http", headers)
    assert (start["status"], dict(start["headers"])[b"content-type"]) == (
        status,
        b"application/json",
    )
    assert b"Fix: " in body["body"] and b"s3cret" not in body["body"]
    assert int(dict(start["headers"])[b"content-length"]) == len(body["body"])
    assert await through("websocket", headers) == [{"type": "websocket.close", "code": 1008}]


class Request:
    """What stands for SGLang's two kinds of requests."""

    def __init__(self, **fields: Any) -> None:
        vars(self).update(fields)

    def normalize_batch_and_arguments(self) -> str:
        return "normal"


@pytest.fixture
def counterfeit(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """What take_no_files knows of SGLang; the module has imported a function by name."""

    def get_image_bytes(image: str) -> bytes:
        return image if isinstance(image, bytes) else b"a file's" + image.encode()

    common, structs = types.ModuleType("common"), types.ModuleType("io_struct")
    importer = types.ModuleType("importer")
    for module in (common, importer):
        module.get_image_bytes = get_image_bytes  # type: ignore[attr-defined]
    structs.GenerateReqInput = type("Generate", (Request,), {})  # type: ignore[attr-defined]
    structs.EmbeddingReqInput = type("Embedding", (Request,), {})  # type: ignore[attr-defined]
    utils, managers = types.ModuleType("utils"), types.ModuleType("managers")
    utils.common, managers.io_struct = common, structs  # type: ignore[attr-defined]
    for name, module in (
        ("sglang", types.ModuleType("sglang")), ("sglang.srt", types.ModuleType("srt")),
        ("sglang.srt.utils", utils), ("sglang.srt.utils.common", common),
        ("sglang.srt.managers", managers), ("sglang.srt.managers.io_struct", structs),
        ("importer", importer),
    ):  # fmt: skip
        monkeypatch.setitem(sys.modules, name, module)
    return structs


@pytest.mark.parametrize("kind", ["image_data", "video_data", "audio_data"])
@pytest.mark.parametrize("request_name", ["GenerateReqInput", "EmbeddingReqInput"])
def test_media_come_in_the_request(
    counterfeit: types.ModuleType, kind: str, request_name: str
) -> None:
    take_no_files(may_fetch=False)
    make = getattr(counterfeit, request_name)
    good = data_url(png(8, 8))
    for media_data in (None, good, [good, [good]], types.SimpleNamespace(url=good)):
        assert make(**{kind: media_data}).normalize_batch_and_arguments() == "normal"
    for named in ("/a.png", "file:///a.png", "a.png", "http://a/b.png", "aGVsbG8=", "video:/a",
                  {"url": "/a.png"}, types.SimpleNamespace(url="/a.png"), 7):  # fmt: skip
        for media_data in (named, [good, named], [[named]]):
            with pytest.raises(ValueError, match=r"data URLs alone: .*Fix: "):
                make(**{kind: media_data}).normalize_batch_and_arguments()


def test_where_hosts_are_allowed_urls_are_left_to_sglang(counterfeit: types.ModuleType) -> None:
    take_no_files(may_fetch=True)
    make = counterfeit.GenerateReqInput
    assert make(image_data="https://a/b.png").normalize_batch_and_arguments() == "normal"
    with pytest.raises(ValueError, match="data URLs alone"):
        make(image_data="file:///a.png").normalize_batch_and_arguments()


@pytest.mark.usefixtures("counterfeit")
def test_readers_that_were_imported_by_name_are_reached_too() -> None:
    take_no_files(may_fetch=False)
    for name in ("importer", "sglang.srt.utils.common"):
        read = sys.modules[name].get_image_bytes
        assert read(png(8, 8)) == png(8, 8)
        with pytest.raises(ValueError, match="data URLs alone"):
            read("/etc/hostname")
        with pytest.raises(ValueError, match=r"it is none of PNG, JPEG, WEBP, GIF, BMP$"):
            read(b"no picture")
        tiff, large = io.BytesIO(), io.BytesIO()
        Image.new("RGB", (8, 8)).save(tiff, "TIFF")
        Image.new("1", (8001, 10000)).save(large, "PNG")
        with pytest.raises(ValueError, match="it is none of PNG, JPEG"):
            read(tiff.getvalue())
        with pytest.raises(ValueError, match="8001 x 10000 pixels, more than 80000000"):
            read(large.getvalue())


def test_both_engines_take_the_same_pictures() -> None:
    assert media.PICTURE_FORMATS == pictures.FORMATS
    assert media.MAX_PIXELS == pictures.MAX_PIXELS
