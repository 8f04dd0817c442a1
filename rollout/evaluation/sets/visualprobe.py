"""VisualProbe: 515 open questions, easy, medium and hard (Mini-o3, arXiv 2509.07969)."""

from collections.abc import Sequence
from functools import partial
from itertools import chain
from pathlib import Path

from rollout.evaluation import prompts
from rollout.evaluation.figures import Figure, Scored, accuracy, accuracy_by, mean, parts
from rollout.evaluation.hub import Repository
from rollout.evaluation.items import EvaluationSet, Item, SetReading
from rollout.evaluation.rows import Row, json_rows

_ROWS = "val.json"
_REVISIONS = {
    "Easy": "0e665a57946d4473deb9975a13f8ddba973b8026",
    "Medium": "25d5ff5bce48147be34fd2655617ab17dc55b3fa",
    "Hard": "bbe9b7a6c41d49844f45e51916ec0a60d1f0e378",
}


def read(folders: Sequence[Path]) -> SetReading:
    tables = [json_rows(folder / _ROWS) for folder in folders]
    each = [
        map(partial(_item, part), table.each)
        for part, table in zip(_REVISIONS, tables, strict=True)
    ]
    return SetReading(sum(table.total for table in tables), chain.from_iterable(each))


def breakdown(scored: Sequence[Scored]) -> dict[str, Figure]:
    """The paper's figure is the mean of the three parts, though they differ in size."""
    levels = [accuracy(part) for part in parts(scored, "category").values()]
    return {**accuracy_by(scored, "category"), "mean of parts": mean(levels)}


def _item(part: str, row: Row) -> Item:
    path = row.texts("images")[:1] or [""]
    named = Row(row.file, row.number, {"images": path[0].removeprefix(f"VisualProbe_{part}/")})
    return Item(
        id=f"{part}/{row.number}",
        picture=named.picture("images"),
        question=row.text("problem").replace("<image>", "").strip(),
        answer=row.text("solution").strip(),
        kind="open",
        fields={"category": part},
    )


VISUALPROBE = EvaluationSet(
    name="visualprobe",
    title="VisualProbe",
    repositories=tuple(
        Repository(f"Mini-o3/VisualProbe_{part}", (_ROWS, "*"), commit, f"VisualProbe_{part}")
        for part, commit in _REVISIONS.items()
    ),
    counts=(515,),
    read=read,
    prompts={"paper": prompts.as_published},
    breakdown=breakdown,
    headline="mean of parts",
)
