"""Held-out scenes for the report: picture, evidence, crop, and the answers before and after."""

from html import escape
from pathlib import Path
from typing import Any

from common.page import picture_url, picture_with_box

Row = dict[str, Any]
_FULL_COLOR_NATS = 0.35  # divergence that gets the strongest colour; log 2 is the most there is


def scene_cards(scenes: list[Row]) -> str:
    """The section with one card a scene; empty without scenes."""
    if not scenes:
        return ""
    cards = "".join(_card(scene) for scene in scenes)
    return (
        "<section><h2>Held-out scenes</h2><p>What the student answers, greedily, and where the "
        "teacher, looking at the crop, disagrees with each token: "
        '<span class="scale"><i>not at all</i><b></b><i>strongly</i></span></p>'
        f'<div class="scenes">{cards}</div></section>'
    )


def _card(scene: Row) -> str:
    return (
        '<article><div class="pictures">'
        f"{_full_picture(scene)}{_picture(scene['crop'], 'the evidence crop')}</div>"
        f"<h3>{escape(scene['question'].strip())}</h3>"
        f"<dl>{_answers('before', scene['before'])}{_answers('after', scene['after'])}</dl>"
        "</article>"
    )


def _full_picture(scene: Row) -> str:
    width, height = map(int, scene["image_size"])
    box = None
    if scene["box"]:
        x1, y1, x2, y2 = map(int, scene["box"])
        box = (x1, y1, x2, y2)
    image = _data_url(scene["image"])
    return picture_with_box(image, (width, height), box, "the full image with the box")


def _picture(path: str, alternative: str) -> str:
    image = _data_url(path)
    return f'<img src="{image}" alt="{alternative}">' if image else f"<em>{alternative}: gone</em>"


def _answers(name: str, answers: Row | None) -> str:
    if answers is None:
        return f"<dt>{name}</dt><dd><em>not measured</em></dd>"
    full, crop = answers["full"], answers["crop"]
    tokens = "".join(_token(token) for token in full["tokens"]) or escape(full["text"])
    return (
        f'<dt>{name}</dt><dd>{_mark(full["is_correct"])} <span class="tokens">{tokens}</span>'
        f"<small>from the crop: {_mark(crop['is_correct'])} {escape(crop['text'])}</small></dd>"
    )


def _token(token: Row) -> str:
    nats = token["divergence_nats"]
    strength = min(1.0, max(0.0, nats / _FULL_COLOR_NATS))
    text = escape(token["text"]).replace("\n", "&#9166;")
    return f'<span style="--strength:{strength:.2f}" title="{nats:.3f} nats">{text}</span>'


def _mark(is_correct: bool | None) -> str:
    if is_correct is None:
        return ""
    return (
        '<b class="right" title="right">&#10003;</b>'
        if is_correct
        else '<b class="wrong" title="wrong">&#10007;</b>'
    )


def _data_url(path: str) -> str | None:
    """The picture as a data URL. None means that it is gone, or no picture."""
    try:
        content = Path(path).read_bytes()
    except (OSError, ValueError):
        return None
    return picture_url(content)
