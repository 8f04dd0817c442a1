"""Pages of HTML that hold all they show: no script runs, nothing is fetched, texts are escaped."""

import base64
import io
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path

from PIL import Image

_STYLE = Path(__file__).with_name("page.css")
# The browser itself keeps a page from loading or running what somebody's text asks for.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STARTS = {  # how files begin that browsers show; nothing else goes into a page
    "png": rb"\x89PNG\r\n\x1a\n",
    "jpeg": rb"\xff\xd8\xff",
    "webp": rb"(?s)RIFF.{4}WEBP",
    "gif": rb"GIF8[79]a",
    "bmp": rb"BM",
}


def page(title: str, body: str, style: str = "") -> str:
    """A whole document.

    Args:
        title: a text, which is the heading, too.
        body: the HTML below the heading.
        style: further CSS.
    """
    common_style = _STYLE.read_text(encoding="utf-8")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f"<title>{escape(title)}</title><style>{common_style}{style}</style></head><body><main>"
        f"<h1>{escape(title)}</h1>{body}</main></body></html>\n"
    )


def tile(name: str, value: str, remark: str = "") -> str:
    """One figure in a box of its own; all three are texts."""
    return (
        f"<div><h2>{escape(name)}</h2><strong>{escape(value)}</strong>"
        f"<small>{escape(remark)}</small></div>"
    )


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of texts; the first column names the row. It scrolls where it is too wide."""
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in header)
    lines = "".join(_line(row) for row in rows)
    return (
        f'<div class="wide" tabindex="0"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{lines}</tbody></table></div>"
    )


def picture_kind(content: bytes) -> str | None:
    """The format of a picture file that browsers show, as media types name it; None for others."""
    return next((kind for kind, start in _STARTS.items() if re.match(start, content)), None)


def picture_url(content: bytes) -> str | None:
    """A data URL of a picture file; None for what is none."""
    kind = picture_kind(content)
    return kind and f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def small_jpeg(picture: Image.Image, side: int = 640) -> bytes:
    """A file of the picture, made smaller where a side is longer than `side` pixels.

    Args:
        picture: RGB.
    """
    small = picture.copy()
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    content = io.BytesIO()
    small.save(content, "JPEG", quality=82)
    return content.getvalue()


def picture_with_box(
    url: str | None,
    size: tuple[int, int],
    box: tuple[int, int, int, int] | None,
    alternative: str,
) -> str:
    """A picture in SVG with a rectangle drawn over it.

    Args:
        url: as `picture_url` makes it; None means the rectangle alone.
        size: width and height in the pixels that the box counts.
        box: x1, y1, x2, y2; the upper ends are exclusive.
        alternative: the text for a reader who cannot see it.
    """
    width, height = size
    image = "" if url is None else f'<image href="{url}" width="{width}" height="{height}"/>'
    drawn = "" if box is None else _rectangle(box, max(width, height) / 110)
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(alternative)}">'
        f"{image}{drawn}</svg>"
    )


def _rectangle(box: tuple[int, int, int, int], line: float) -> str:
    x1, y1, x2, y2 = box
    return (
        f'<rect class="box" x="{x1}" y="{y1}" width="{x2 - x1}" height="{y2 - y1}" '
        f'stroke-width="{line:.2f}"/>'
    )


def _line(cells: Sequence[str]) -> str:
    name, *values = (escape(cell) for cell in cells)
    return f'<tr><th scope="row">{name}</th>{"".join(f"<td>{v}</td>" for v in values)}</tr>'
