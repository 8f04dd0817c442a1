"""The sheet: figures, remarks, distributions over all rows, and the rows that were chosen."""

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from common.dataset import Numbered
from common.errors import DataError
from common.histograms import histogram
from common.images import ImageStore
from common.look.evidence import SCALE, evidence_picture, evidence_size
from common.look.remarks import Remark
from common.look.survey import NO_BOX, Survey, prompt_tokens
from common.look.token_counts import NO_SIZE, TokenCounts
from common.page import page, picture_url, picture_with_box, small_jpeg, tile
from common.types import Sample

_SHOWN_PIXELS = 900  # longer side of a picture: enough to see what a box is about
_STYLE = """
.pictures svg, .pictures img { image-rendering: auto; }
.pictures img { max-height: 420px; object-fit: contain; object-position: left top; }
.box { stroke: #f33; }
nav { display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 14px 0 0; }
li { margin-bottom: 8px; overflow-wrap: anywhere; }
"""
_NAVIGATION = (
    '<nav><a href="#remarks">What looks wrong</a> <a href="#numbers">Distributions</a> '
    '<a href="#rows">Rows</a></nav>'
)


def sheet(
    found: Survey,
    remarks: Sequence[Remark],
    counts: TokenCounts,
    answers: Mapping[str, str],
    images: ImageStore,
) -> str:
    """The whole document.

    Args:
        answers: reference answers by sample.
        images: the files of the dataset's folder.
    """
    cards = "".join(_card(numbered, counts, answers, images) for numbered in found.shown)
    body = (
        f'<section class="tiles">{_tiles(found, remarks)}</section>{_NAVIGATION}'
        f'<h2 id="remarks">What looks wrong</h2>{_list(remarks)}'
        f'<h2 id="numbers">Distributions over all rows</h2><p>Tokens are those '
        f"{escape(counts.words)}.</p>"
        f'<section class="charts">{_charts(found)}</section>'
        f'<h2 id="rows">{len(found.shown)} rows, chosen at random</h2><p>The '
        "student's picture with the box (which is drawn by this sheet), and the teacher's view: "
        f"the ready crop, or the box cut out and enlarged {SCALE:g} times.</p>"
        f'<section class="scenes">{cards}</section>'
    )
    return page(str(found.path), body, _STYLE)


def _tiles(found: Survey, remarks: Sequence[Remark]) -> str:
    num_boxes = int((found["x2"] != NO_BOX).sum())
    num_answers = int(found["has_answer"].sum())
    return "".join(
        (
            tile("rows", f"{found.num_good:,}", f"and {found.num_bad:,} that cannot be used"),
            tile("pictures", f"{len(np.unique(found['content'])):,}", "that differ"),
            tile("with a box", f"{num_boxes:,}", "the others have a ready crop, or none"),
            tile("with an answer", f"{num_answers:,}", "training needs none"),
            tile("remarks", str(len(remarks)), "see below" if remarks else "nothing looks wrong"),
        )
    )


def _list(remarks: Sequence[Remark]) -> str:
    if not remarks:
        return "<p>Nothing.</p>"
    return f"<ul>{''.join(_item(remark) for remark in remarks)}</ul>"


def _item(remark: Remark) -> str:
    details = "".join(f"<br><small>{escape(line)}</small>" for line in remark.details)
    return f"<li>{escape(str(remark))}{details}</li>"


def _charts(found: Survey) -> str:
    pixels = found["width"] * found["height"]
    is_boxed = found["x2"] != NO_BOX
    views = (found["view_width"] * found["view_height"])[found.has_evidence]
    share = (found["box_pixels"] / np.maximum(1, pixels))[is_boxed]
    return "".join(
        (
            histogram("Pictures", "megapixels", pixels / 1e6),
            histogram("Longer side over shorter", "times", _elongation(found)),
            histogram("Box", "share of the picture", share, is_share=True),
            histogram("Teacher's view", "megapixels", views / 1e6),
            histogram("Student's view", "tokens", _counted(found["student_tokens"])),
            histogram("Teacher's view", "tokens", _counted(found["teacher_tokens"])),
            histogram("Problems", "characters", found["characters"]),
        )
    )


def _elongation(found: Survey) -> np.ndarray:
    width, height = found["width"], found["height"]
    elongation: np.ndarray = np.maximum(width, height) / np.maximum(1, np.minimum(width, height))
    return elongation


def _counted(tokens: np.ndarray) -> np.ndarray:
    counted: np.ndarray = tokens[tokens != NO_SIZE]
    return counted


def _card(
    numbered: Numbered, counts: TokenCounts, answers: Mapping[str, str], images: ImageStore
) -> str:
    sample = numbered.sample
    try:
        pictures = _pictures(sample, images)
    except DataError as error:
        pictures = f'<p class="wrong">{escape(str(error))}</p>'
    answer = answers.get(sample.sample_id)
    return (
        f"<article>{pictures}<h3>{escape(sample.problem.strip())}</h3><dl>"
        f"<dt>answer</dt><dd>{'<em>none</em>' if answer is None else escape(answer)}</dd>"
        f"{_facts(sample, counts)}"
        f"<dt>row</dt><dd>{numbered.row}: {escape(sample.sample_id)}</dd></dl></article>"
    )


def _pictures(sample: Sample, images: ImageStore) -> str:
    """A sample's pictures as HTML; DataError if a file is not what the row says."""
    whole = images.open(sample.image)
    box = sample.box
    sides = None if box is None else (box.x1, box.y1, box.x2, box.y2)
    url = picture_url(small_jpeg(whole, _SHOWN_PIXELS))
    shown = picture_with_box(url, whole.size, sides, "the student's picture with the box")
    crop = "<em>no evidence</em>"
    if evidence_size(sample) is not None:
        view = picture_url(small_jpeg(evidence_picture(sample, images), _SHOWN_PIXELS))
        crop = f'<img src="{view}" alt="the teacher\'s view">'
    return f'<div class="pictures">{shown}{crop}</div>'


def _facts(sample: Sample, counts: TokenCounts) -> str:
    image, box = sample.image, sample.box
    student, teacher = prompt_tokens(sample, counts)
    region = "<em>none</em>"
    if box is not None:
        pixels = (box.x2 - box.x1) * (box.y2 - box.y1)
        share = f"{pixels / (image.width * image.height):.2%}"
        region = f"[{box.x1}, {box.y1}, {box.x2}, {box.y2}], {share} of the picture"
    return (
        f"<dt>picture</dt><dd>{image.width} x {image.height} pixels</dd>"
        f"<dt>box</dt><dd>{region}</dd>"
        f"<dt>tokens</dt><dd>{student:,} student, {teacher:,} teacher</dd>"
    )
