"""Each published set, read from small files of its true schema.

Holds rollout/evaluation/rows.py.
"""

import hashlib
import json
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.errors import ConfigError, DataError
from rollout.evaluation.items import digest_of
from rollout.evaluation.sets import SETS, find_set
from rollout.evaluation.sets.mmvp import MMVP
from tests.rollout.evaluation.set_files import hrbench_row, picture, pope_row, write_set

COUNT = 12  # rows of a small copy
# id, question, options, answer, kind and fields of the second item, and the number of its picture.
SECOND = {
    "vstar": (
        *("1", "What is thing 1 made of?\n(A) rubber\n(B) cotton\n(C) kevlar\n(D) leather\n"
          "Answer with the option's letter from the given choices directly."),
        (("A", "rubber"), ("B", "cotton"), ("C", "kevlar"), ("D", "leather")),
        *("B", "choice", {"category": "relative_position"}, 1),
    ),
    "zoombench": ("1", "How many?", (), "1", "open", {"question_type": "open"}, 1),
    **dict.fromkeys(
        ("hrbench-4k", "hrbench-8k"),
        (
            *("1", "Where is the sign 1?"),
            tuple((letter, f"place {letter}") for letter in "ABCD"),
            *("B", "choice", {"category": "single", "cycle_category": "cycle_1"}, 1),
        ),
    ),
    **dict.fromkeys(
        ("mme-realworld", "mme-realworld-cn", "mme-realworld-lite"),
        (
            *("1", "What does sign 1 say?"),
            tuple((letter, f"word {letter}") for letter in "ABCDE"),
            *("B", "choice"),
            {
                "part": "Reasoning",
                "category": "Reasoning/Monitoring",
                "l2_category": "license",
                "choices": "\n".join(f"({letter}) word {letter}" for letter in "ABCDE"),
            },
            1,
        ),
    ),
    "mmstar": (
        *("1", "Hint: Look.\nQuestion: Which one?\nChoices:\n(A) a cat\n(B) a dog\n(C) a cow\n"
          "(D) a hen"),
        (("A", "a cat"), ("B", "a dog"), ("C", "a cow"), ("D", "a hen")),
        *("B", "choice"),
        {"category": "logical reasoning", "l2_category": "code & sequence reasoning"},
        1,
    ),
    "pope": (
        *("popular/0", "Is there a car 1 in the image?", (), "no", "yes_no"),
        *({"category": "popular"}, 1),
    ),
    "cv-bench": (
        *("2D/1", "How many? Select from the following choices.\n(A) 1\n(B) 2\n(C) 3"),
        (("A", "1"), ("B", "2"), ("C", "3")),
        *("B", "choice", {"type": "2D", "source": "COCO", "task": "Relation"}, 1),
    ),
    "mmvp": (
        *("2", "Are the wings open, or closed? (a) Open (b) Closed"),
        (("A", "Open"), ("B", "Closed")),
        *("B", "choice", {"pair": "001"}, 2),
    ),
    "visualprobe": ("Easy/1", "How many?", (), "1", "open", {"category": "Easy"}, 1),
}  # fmt: skip


@pytest.mark.parametrize("name", SETS)
def test_a_set_is_read_from_a_copy_of_its_files(name, tmp_path):
    folder = write_set(name, tmp_path / "copy", COUNT)
    loaded = SETS[name].open(folder, is_any_count=True)
    items = list(loaded.items)
    assert loaded.rows == len(items) == COUNT and loaded.revision is None
    assert len({item.id for item in items}) == COUNT
    second = items[1]
    *told, number = SECOND[name]
    assert [
        *(second.id, second.question, second.options, second.answer, second.kind),
        second.fields,
    ] == told
    assert second.picture == picture(number)  # not a byte of it is touched


@pytest.mark.parametrize("name", SETS)
def test_another_count_than_the_published_one_is_refused(name, tmp_path):
    folder = write_set(name, tmp_path / "copy", COUNT)
    with pytest.raises(DataError, match=rf"set {name}: {COUNT} rows, not .*as published\. Fix: "):
        SETS[name].open(folder)
    assert len(list(SETS[name].open(folder, limit=5).items)) == 5


@pytest.mark.parametrize("name", ["mmvp", "visualprobe", "vstar"])
def test_the_published_count_is_accepted(name, tmp_path):
    count = SETS[name].counts[0]
    assert len(list(SETS[name].open(write_set(name, tmp_path / "copy", count)).items)) == count


def test_both_counts_of_mme_realworld_cn_are_known():
    assert SETS["mme-realworld-cn"].counts == (5_462, 5_917)


@pytest.mark.parametrize("name", SETS)
def test_a_missing_file_is_named_with_a_fix(name, tmp_path):
    with pytest.raises(DataError, match=r"no file .*\. Fix: name the folder"):
        SETS[name].open(tmp_path)


def test_only_zoombench_ships_crops(tmp_path):
    for name, one in SETS.items():
        item = next(one.open(write_set(name, tmp_path / name, COUNT), limit=1).items)
        assert (item.crop == picture(100)) if name == "zoombench" else item.crop is None


def test_zoombench_is_a_choice_only_where_the_answer_is_an_option(tmp_path):
    first, second = (
        SETS["zoombench"].open(write_set("zoombench", tmp_path / "z", COUNT), limit=2).items
    )
    assert (first.kind, first.answer, first.options[0]) == ("choice", "B", ("A", "red"))
    assert (second.kind, second.answer, second.options) == ("open", "1", ())


def test_rows_with_one_id_do_not_overwrite_one_another(tmp_path):
    rows = [hrbench_row(0), hrbench_row(0), hrbench_row(1), hrbench_row(0)]  # as VO's client does
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "hr_bench_4k.parquet")
    items = SETS["hrbench-4k"].open(tmp_path, is_any_count=True).items
    assert [item.id for item in items] == ["0", "0#2", "1", "0#3"]


def test_an_option_that_is_not_there_is_left_out(tmp_path):
    rows = [{**hrbench_row(0), "C": "", "D": None}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "hr_bench_4k.parquet")
    item = next(SETS["hrbench-4k"].open(tmp_path, limit=1).items)
    assert item.options == (("A", "place A"), ("B", "place B"))


@pytest.mark.parametrize(
    "change, told",
    [
        ({"image": "no base64!"}, "image = 'no base64!' is no base64"),
        ({"image": None}, "image = None is no picture"),
        ({"answer": "none"}, "answer = 'none' names no option"),
        ({"question": None}, "question = None is no text"),
    ],
)
def test_a_broken_row_is_named_with_file_field_value_and_fix(change, told, tmp_path):
    path = tmp_path / "hr_bench_4k.parquet"
    pq.write_table(pa.Table.from_pylist([hrbench_row(0), {**hrbench_row(1), **change}]), path)
    with pytest.raises(DataError) as error:
        list(SETS["hrbench-4k"].open(tmp_path, is_any_count=True).items)
    assert f"{path} row 1: {told}. Fix: " in str(error.value)


def test_a_label_that_is_neither_yes_nor_no_is_refused(tmp_path):
    (tmp_path / "data").mkdir()
    rows = [{**pope_row(0), "answer": "maybe"}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "data/test-0.parquet")
    with pytest.raises(DataError, match="answer = 'maybe' is neither yes nor no"):
        list(SETS["pope"].open(tmp_path, is_any_count=True).items)


def test_a_file_that_is_no_parquet_is_refused_at_once(tmp_path):
    (tmp_path / "mmstar.parquet").write_bytes(b"<html>")
    with pytest.raises(DataError, match=r"mmstar\.parquet cannot be read"):
        SETS["mmstar"].open(tmp_path)


def test_a_missing_column_is_named(tmp_path):
    pq.write_table(pa.table({"index": [1]}), tmp_path / "mmstar.parquet")
    with pytest.raises(DataError, match="lacks the columns question, image, answer, category"):
        SETS["mmstar"].open(tmp_path)


def test_a_picture_outside_the_folder_is_not_read(tmp_path):
    folder = write_set("visualprobe", tmp_path / "copy", COUNT)
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    row = {"images": ["../../secret.jpg"], "problem": "?", "solution": "1"}
    (folder / "VisualProbe_Easy" / "val.json").write_text(json.dumps([row]))
    with pytest.raises(DataError, match=r"leads out of .*VisualProbe_Easy"):
        list(SETS["visualprobe"].open(folder, is_any_count=True).items)


def test_a_set_is_read_a_few_rows_at_a_time(tmp_path):
    """64 rows of 1 MiB: their file holds 64 MiB, of which no more than a few are in memory."""
    content = hashlib.shake_256(b"").digest(2**20)
    rows = [{**pope_row(n), "image": {"bytes": content, "path": None}} for n in range(64)]
    (tmp_path / "data").mkdir()
    path = tmp_path / "data/test-0.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=16, use_dictionary=False)
    del rows
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    highest = 0
    for item in SETS["pope"].open(tmp_path, is_any_count=True).items:
        assert len(item.picture) == 2**20
        python = tracemalloc.get_traced_memory()[0]
        highest = max(highest, python + pa.total_allocated_bytes() - before)
    tracemalloc.stop()
    assert highest < 48 * 2**20


def test_the_digest_of_an_item_is_of_all_that_counts(tmp_path):
    folder = write_set("zoombench", tmp_path / "copy", COUNT)
    digests = {digest_of(item) for item in SETS["zoombench"].open(folder, limit=COUNT).items}
    assert len(digests) == COUNT
    again = {digest_of(item) for item in SETS["zoombench"].open(folder, limit=COUNT).items}
    assert again == digests


# ---- what a set is -------------------------------------------------------------------------------
def test_the_twelve_sets_are_known_with_what_the_paper_counts():
    assert {name: one.counts[0] for name, one in SETS.items()} == {
        **{"vstar": 191, "zoombench": 845, "hrbench-4k": 800, "hrbench-8k": 800},
        **{"mme-realworld": 23_609, "mme-realworld-cn": 5_462, "mme-realworld-lite": 1_919},
        **{"mmstar": 1_500, "pope": 9_000, "cv-bench": 2_638, "mmvp": 300, "visualprobe": 515},
    }


def test_every_pinned_revision_is_a_whole_commit():
    commits = [r.revision for one in SETS.values() for r in one.repositories if r.revision]
    assert len(commits) == 10 and all(len(c) == 40 and int(c, 16) for c in commits)
    (vstar,), (mmvp,) = SETS["vstar"].repositories, SETS["mmvp"].repositories
    assert vstar.revision == "b44023b4dca749ed8a76b85eb576627d05a1c174"
    assert mmvp.revision is None  # the day's commit, which the result names


def test_an_unknown_set_is_named_with_those_that_are_known():
    with pytest.raises(ConfigError, match=r"no set 'vstarr'. Fix: choose from vstar, zoombench"):
        find_set("vstarr")


# ---- labels --------------------------------------------------------------------------------------
def test_four_labels_of_mmvp_are_corrected_only_when_asked(tmp_path):
    items = {item.id: item for item in MMVP.open(write_set("mmvp", tmp_path / "copy", 300)).items}
    changed = {n for n, item in items.items() if MMVP.answer(item, "corrected") != item.answer}
    assert changed == {"99", "100", "279", "280"}
    assert MMVP.score(items["99"], "(a)", "paper").outcome == "right"
    assert MMVP.score(items["99"], "(a)", "corrected").outcome == "wrong"
    assert MMVP.score(items["99"], "(b)", "corrected").outcome == "right"
    with pytest.raises(ConfigError, match=r"labels 'best'. Fix: choose paper or corrected"):
        MMVP.score(items["99"], "(b)", "best")
