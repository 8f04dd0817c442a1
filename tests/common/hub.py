"""A hub on loopback that the real huggingface_hub client downloads from, and its cache."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote

NAME = "Org/Tiny-VL"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
ROOT = Path(__file__).resolve().parents[2]


def snapshot_in_cache(home: Path, folder: Path, name: str = NAME) -> Path:
    """Puts a folder's files where `hf download` puts them: blobs, and links to them."""
    storage = home / "hub" / f"models--{name.replace('/', '--')}"
    snapshot = storage / "snapshots" / COMMIT
    for made in (storage / "blobs", storage / "refs", snapshot):
        made.mkdir(parents=True)
    (storage / "refs" / "main").write_text(COMMIT)
    for path in folder.iterdir():
        content = path.read_bytes()
        blob = storage / "blobs" / hashlib.sha256(content).hexdigest()
        blob.write_bytes(content)
        (snapshot / path.name).symlink_to(Path("../../blobs") / blob.name)
    return snapshot


@contextmanager
def serving_hub(
    folder: Path, name: str = NAME, commit: str = COMMIT, kind: str = "models"
) -> Iterator["Hub"]:
    """Serves a folder as `name`, and refuses other names as the hub does."""
    hub = Hub(folder, name, commit, kind)
    thread = Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()


class Hub(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, folder: Path, name: str, commit: str, kind: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.name, self.commit, self.kind = name, commit, kind
        self.sent: list[str] = []  # names of the files that were downloaded
        self.ranges: list[str] = []  # what was asked for of files of which a part was there
        self.cuts: dict[str, int] = {}  # file -> bytes after which its next download breaks off
        self.lies: dict[str, bytes] = {}  # file -> what is sent in place of its content

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def do_HEAD(self) -> None:
        self._answer(is_head=True)

    def do_GET(self) -> None:
        self._answer(is_head=False)

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def _answer(self, is_head: bool) -> None:
        hub = self.server
        path = unquote(self.path.partition("?")[0])
        api, prefix = f"/api/{hub.kind}/{hub.name}", "" if hub.kind == "models" else f"/{hub.kind}"
        resolve = f"{prefix}/{hub.name}/resolve/{hub.commit}/"
        there = (p for p in hub.folder.rglob("*") if p.is_file())
        files = {p.relative_to(hub.folder).as_posix(): p for p in there}
        if "Secret/" in path:
            self._send(403, b"{}", {"X-Error-Code": "GatedRepo"}, is_head)
        elif hub.name not in path:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"}, is_head)
        elif path in (api, *(f"{api}/revision/{r}" for r in ("main", hub.commit))):
            siblings = [{"rfilename": name} for name in sorted(files)]
            self._json({"id": hub.name, "sha": hub.commit, "siblings": siblings}, is_head)
        elif path.startswith(f"{api}/tree/{hub.commit}"):
            tree = [
                {"type": "file", "path": n, "size": p.stat().st_size, "oid": _digest(p)}
                for n, p in sorted(files.items())
            ]
            self._json(tree, is_head)
        elif path.startswith(resolve) and path.removeprefix(resolve) in files:
            self._file(path.removeprefix(resolve), is_head)
        else:
            self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"}, is_head)

    def _file(self, name: str, is_head: bool) -> None:
        hub = self.server
        path = hub.folder / name
        headers = {"ETag": f'"{_digest(path)}"', "X-Repo-Commit": hub.commit}
        content = hub.lies.get(name, path.read_bytes())
        if is_head:
            self._send(200, content, headers, is_head)
            return
        hub.sent.append(path.name)
        status, asked = 200, self.headers.get("Range")
        if asked is not None:
            hub.ranges.append(asked)
            start = int(asked.removeprefix("bytes=").partition("-")[0])
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            status, content = 206, content[start:]
        self._send(status, content, headers, is_head, hub.cuts.pop(name, None))

    def _json(self, content: object, is_head: bool) -> None:
        headers = {"Content-Type": "application/json"}
        self._send(200, json.dumps(content).encode(), headers, is_head)

    def _send(
        self,
        status: int,
        body: bytes,
        headers: Mapping[str, str],
        is_head: bool,
        cut: int | None = None,
    ) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if not is_head:
            self.wfile.write(body[:cut])
        if cut is not None:
            self.close_connection = True


def _digest(path: Path) -> str:
    """The name that git gives the content, which is what the hub tells of files outside Git LFS."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0%s" % (len(content), content)).hexdigest()


def asked(
    home: Path, code: str, *arguments: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """`code` in a process of its own, for huggingface_hub reads the environment as it starts."""
    kept = {n: v for n, v in os.environ.items() if not n.startswith(("HF_", "HUGGINGFACE"))}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**kept, "HF_HOME": str(home), "PYTHONPATH": str(ROOT), **environment},
        cwd=home,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
