"""The files of the page: as they are, or as one document that needs no other file."""

import base64
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.inspector.answers import as_json

_FOLDER = Path(__file__).with_name("web")
_COMMON_STYLE = Path(__file__).parents[2] / "common" / "page.css"
_KINDS = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
_IMPORT = re.compile(r'^import (\{[^}]*\}) from "\./([\w.]+)";$', re.MULTILINE)
_EXPORT = re.compile(r"^export ((?:async )?(?:function|const|class)) (\w+)", re.MULTILINE)


@dataclass(frozen=True)
class WebFile:
    """A file as it is served."""

    name: str
    media_type: str
    content: bytes

    @property
    def etag(self) -> str:
        return f'"{hashlib.sha256(self.content).hexdigest()[:32]}"'


def web_files() -> Iterator[WebFile]:
    """All files of the page."""
    for path in [*sorted(_FOLDER.iterdir()), _COMMON_STYLE]:
        name = "common.css" if path == _COMMON_STYLE else path.name
        if path.suffix in _KINDS:
            yield WebFile(name, _KINDS[path.suffix], path.read_bytes())


def document(recorded: dict[str, Any]) -> str:
    """The page as one file that holds answers instead of asking for them.

    A browser runs its one script and lets it fetch nothing.

    Args:
        recorded: as web/source.js reads it; for JSON.
    """
    texts = {file.name: file.content.decode() for file in web_files()}
    style = texts["common.css"] + texts["inspector.css"]
    script = _bundle(texts)
    policy = (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; img-src data:"
    )
    # Data that stands in a page: "<" could end it.
    block = as_json(recorded, separators=(",", ":")).replace("<", "\\u003c")
    head = (
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n<style>{style}</style>\n'
    )
    tail = (
        f'<script type="application/json" id="recorded">{block}</script>\n'
        f"<script>{script}</script>\n"
    )
    page = re.sub(r'<link rel="stylesheet".*?>\n|<script type="module".*?</script>\n', "",
                  texts["index.html"])  # fmt: skip
    before, after = page.split("</head>")
    return before + head + "</head>" + after.replace("</body>", tail + "</body>")


def _bundle(texts: dict[str, str]) -> str:
    """All modules as one script: each is a function that gives what it exports."""
    done: dict[str, str] = {}
    _add("main.js", texts, done)
    return '"use strict";\nconst modules = {};\n' + "".join(done.values())


def _add(name: str, texts: dict[str, str], done: dict[str, str]) -> None:
    source = texts[name]
    for _, needed in _IMPORT.findall(source):
        if needed not in done:
            _add(needed, texts, done)
    names = [found for _, found in _EXPORT.findall(source)]
    body = _EXPORT.sub(r"\1 \2", _IMPORT.sub(r'const \1 = modules["\2"];', source))
    done[name] = (
        f'modules["{name}"] = (() => {{\n{body}\nreturn {{ {", ".join(names)} }};\n}})();\n'
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
