"""The index is built as a run goes on, in small blocks, and is never anything but derived.

Holds deploy/inspector/index_files.py, deploy/inspector/index_worker.py, deploy/inspector/index.py.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from common.trained import FOLDER as TRAINED
from common.trained import TrainedFile, TrainedStream, record_batch, schema_of_life
from deploy.inspector.index import IndexReader
from deploy.inspector.index_files import (
    FOLDER,
    MANIFEST,
    index_folder,
    read_manifest,
    trained_sizes,
)
from deploy.inspector.index_rows import index_rows
from deploy.inspector.index_worker import IndexWorker
from deploy.inspector.indexing import IndexWriter, writing
from tests.deploy.inspector.runs import TAG, answered, indexed, step_of, with_tokenizer
from tests.trained_rows import write_trained
from tests.waiting import wait_until


def steps(first: int, last: int, groups: int = 2) -> list:
    return [
        step_of(n, [answered(f"{n}/{g}", f"s{g}", [[24, 23], [25]]) for g in range(groups)])
        for n in range(first, last + 1)
    ]


def steps_in(reader: IndexReader) -> list[int]:
    index = reader.now()
    return sorted(set(index.columns["step"][index.is_valid()].tolist()))


def test_a_file_is_indexed_up_to_its_torn_end_and_on_from_there(tmp_path: Path) -> None:
    with_tokenizer(tmp_path)
    path = write_trained(tmp_path, steps(1, 4))
    whole = path.read_bytes()
    last = len(record_batch(*steps(4, 4)[0]).serialize())
    path.write_bytes(whole[: -last // 2])
    reader = indexed(tmp_path)
    assert steps_in(reader) == [1, 2, 3]
    (file,) = reader.now().manifest.files
    assert file.offset == len(whole) - last and file.seen_bytes == path.stat().st_size
    path.write_bytes(whole)
    assert steps_in(indexed(tmp_path)) == steps_in(reader) == [1, 2, 3, 4]
    assert reader.now().size == 16


def test_a_later_life_undoes_steps_on_all_ranks(tmp_path: Path) -> None:
    with_tokenizer(tmp_path)
    for rank in (0, 1):
        write_trained(tmp_path, steps(1, 5), life=1, rank=rank)
    reader = indexed(tmp_path)
    assert steps_in(reader) == [1, 2, 3, 4, 5]
    write_trained(tmp_path, [], life=2, from_step=3)  # has trained nothing yet
    indexed(tmp_path)
    assert steps_in(reader) == [1, 2, 3]
    write_trained(tmp_path, steps(4, 4), life=2, rank=1, from_step=3)
    indexed(tmp_path)
    index = reader.now()
    assert steps_in(reader) == [1, 2, 3, 4] and index.is_valid().sum() == 2 * 3 * 4 + 4


def test_blocks_are_merged_so_that_few_parts_remain(tmp_path: Path) -> None:
    with_tokenizer(tmp_path)
    path = write_trained(tmp_path, [])
    with path.open("ab") as file:
        for step in steps(1, 64):
            file.write(record_batch(*step).serialize())
            file.flush()
            reader = indexed(tmp_path)
            assert reader.now().size == 4 * step[0]
    assert len(reader.now().manifest.parts) <= 6
    assert reader.now().columns["step"].tolist() == np.repeat(np.arange(1, 65), 4).tolist()
    assert reader.now().manifest.rows == 256
    there = {path.name.split(".")[0] for path in (tmp_path / FOLDER).glob("part-*")}
    assert there == {part.name for part in reader.now().manifest.parts}


def test_long_answers_make_small_blocks_and_parts(tmp_path: Path, monkeypatch) -> None:
    """What is held at once is bounded by bytes of texts, by the worker and by a search."""
    monkeypatch.setattr("deploy.inspector.index_files._BLOCK_BYTES", 2_000)
    monkeypatch.setattr("deploy.inspector.index_files._MAX_BYTES", 10_000)
    with_tokenizer(tmp_path)
    groups = [answered(f"0/{g}", f"s{g}", [[TAG] * 100] * 2) for g in range(2)]
    write_trained(tmp_path, [step_of(n, groups) for n in range(1, 25)])
    (tmp_path / FOLDER).mkdir()
    IndexWriter(tmp_path, tmp_path / FOLDER, bytes_a_block=3_000).round()
    manifest = IndexReader(tmp_path / FOLDER).now().manifest
    assert manifest.rows == 96 and sum(part.text_bytes for part in manifest.parts) > 96 * 400
    assert max(part.text_bytes for part in manifest.parts) <= 10_000
    for part in manifest.parts:
        with pa.OSFile(str(part.texts(tmp_path / FOLDER))) as file:
            texts = pa.ipc.open_file(file)
            blocks = [texts.get_batch(n) for n in range(texts.num_record_batches)]
        assert max(block.num_rows for block in blocks) * 400 <= 2_000


def test_token_ids_are_decoded_in_slices(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("deploy.inspector.index_rows._TOKENS_AT_ONCE", 3)
    sizes: list[int] = []

    def texts_of(rows: Sequence[Sequence[int]]) -> list[str]:
        sizes.append(sum(map(len, rows)))
        return [str(list(row)) for row in rows]

    answers = [[1], [2, 3], [4, 5, 6, 7, 8], [], [9]]
    batch = record_batch(*step_of(1, [answered("0/0", "s", answers)]))
    found = index_rows(batch.slice(1), 0, 0, texts_of).column("text").to_pylist()
    assert found == [str(ids) for ids in answers[1:]] and sizes == [2, 5, 1]


def damage_file(run: Path) -> tuple[Path, int]:
    """Where the second of four steps begins, whose body is overwritten."""
    path = write_trained(run, steps(1, 4))
    content = path.read_bytes()
    with contextlib.closing(TrainedStream(path)) as stream:
        begin, end = [(begin, end) for begin, end, _ in stream.batches()][1]
    path.write_bytes(content[: end - 400] + b"\xff" * 400 + content[end:])
    return path, begin


def test_a_file_that_is_damaged_says_from_where_on_it_is_not_shown(tmp_path: Path) -> None:
    with_tokenizer(tmp_path)
    path, begin = damage_file(tmp_path)
    reader = indexed(tmp_path)
    manifest, sizes = reader.now().manifest, trained_sizes(tmp_path)
    assert steps_in(reader) == [1] and manifest.covers(sizes)
    assert manifest.unread(sizes, is_over=False) == []  # a step may be half-written
    (line,) = manifest.unread(sizes, is_over=True)
    assert line.startswith(f"{path.name}: from byte {begin} of {path.stat().st_size} on")
    write_trained(tmp_path, steps(2, 4), life=2, from_step=1)
    manifest, sizes = indexed(tmp_path).now().manifest, trained_sizes(tmp_path)
    assert manifest.unread(sizes, is_over=False) == [line]  # the life is over


def test_a_file_that_is_removed_takes_its_rows_with_it(tmp_path: Path) -> None:
    with_tokenizer(tmp_path)
    write_trained(tmp_path, steps(1, 3))
    gone = write_trained(tmp_path, steps(1, 3), rank=1)
    (tmp_path / FOLDER).mkdir()
    writer, reader = IndexWriter(tmp_path, tmp_path / FOLDER), IndexReader(tmp_path / FOLDER)
    assert writer.round().rows == 24
    gone.unlink()
    assert not reader.now().manifest.covers(trained_sizes(tmp_path))
    assert writer.round().rows == reader.now().size == 12
    assert [file.name for file in reader.now().manifest.files] == ["life-0001-rank-000.arrow"]


def test_a_file_that_cannot_be_read_does_not_void_the_index(tmp_path: Path) -> None:
    with_tokenizer(tmp_path)
    write_trained(tmp_path, steps(1, 3))
    TrainedFile.named(tmp_path / TRAINED, 2, 0).path.mkdir()  # opening it fails
    before = indexed(tmp_path).now().manifest
    assert before.files[1].problem
    assert indexed(tmp_path).now().manifest == before


def test_an_index_that_cannot_be_finished_where_it_is_goes_to_the_cache(
    tmp_path: Path, monkeypatch
) -> None:
    with_tokenizer(tmp_path)
    path = write_trained(tmp_path, steps(1, 3))
    indexed(tmp_path)
    monkeypatch.setattr("deploy.inspector.index_files.os.access", lambda *_: False)
    assert index_folder(tmp_path, tmp_path / "cache") == tmp_path / FOLDER  # it is whole
    with path.open("ab") as file:
        file.write(record_batch(*steps(4, 4)[0]).serialize())
    assert index_folder(tmp_path, tmp_path / "cache").parent == tmp_path / "cache"


def damage_manifest(run: Path) -> None:
    (run / FOLDER / MANIFEST).write_text('{"format": 1, "files"')


def cut_part(run: Path) -> None:
    part = next((run / FOLDER).glob("*.texts.arrow"))
    part.write_bytes(part.read_bytes()[:-20])


def remove_part(run: Path) -> None:
    next((run / FOLDER).glob("*.numbers.arrow")).unlink()


def of_another_format(run: Path) -> None:
    document = json.loads((run / FOLDER / MANIFEST).read_text())
    (run / FOLDER / MANIFEST).write_text(json.dumps(document | {"format": 99}))


def of_another_run(run: Path) -> None:
    """The index says of another file with this name how far it is indexed."""
    path = TrainedFile.named(run / TRAINED, 1, 0).path
    content = [record_batch(n, groups, -figures) for n, groups, figures in steps(1, 3)]
    path.write_bytes(schema_of_life(0).serialize().to_pybytes()
                     + b"".join(batch.serialize() for batch in content))  # fmt: skip


def with_other_texts(run: Path) -> None:
    path = run / "tokenizer" / "tokenizer.json"
    path.write_text(path.read_text().replace('" tag"', '" label"'))


@pytest.mark.parametrize(
    "harm",
    [damage_manifest, cut_part, remove_part, of_another_format, of_another_run, with_other_texts],
)
def test_an_index_that_is_damaged_or_foreign_is_made_anew(tmp_path: Path, harm) -> None:
    with_tokenizer(tmp_path)
    write_trained(tmp_path, steps(1, 3))
    indexed(tmp_path)
    before = read_manifest(tmp_path / FOLDER)
    harm(tmp_path)
    reader = indexed(tmp_path)
    assert before is not None and steps_in(reader) == [1, 2, 3]
    assert reader.now().manifest.parts[0].name != before.parts[0].name
    word = "label" if harm is with_other_texts else "tag"
    assert reader.matching(reader.now(), word, np.ones(12, bool)).sum() == 6
    names = {path.name.split(".")[0] for path in (tmp_path / FOLDER).glob("part-*")}
    assert len(names) == 1  # what does not count is removed


def test_an_index_that_is_removed_while_it_is_read_is_made_anew(tmp_path: Path) -> None:
    with_tokenizer(tmp_path)
    write_trained(tmp_path, steps(1, 3))
    reader = indexed(tmp_path)
    held = reader.now()
    shutil.rmtree(tmp_path / FOLDER)
    with pytest.raises(OSError):
        reader.matching(held, "tag", np.ones(12, bool))
    assert reader.now().size == 0
    indexed(tmp_path)
    assert reader.now().size == 12


def test_a_file_of_another_format_is_left_out_with_a_word(tmp_path: Path) -> None:
    with_tokenizer(tmp_path)
    write_trained(tmp_path, steps(1, 2))
    TrainedFile.named(tmp_path / TRAINED, 2, 0).path.write_bytes(b"something else")
    TrainedFile.named(tmp_path / TRAINED, 3, 0).path.write_bytes(b"")
    reader = indexed(tmp_path)
    assert steps_in(reader) == [1, 2]
    problems = [file.problem for file in reader.now().manifest.files]
    assert problems[0] == "" and all("life-000" in problem for problem in problems[1:])
    before = reader.now().manifest
    assert indexed(tmp_path).now().manifest == before  # it is not looked at again and again


def test_without_a_change_a_round_writes_nothing(tmp_path: Path) -> None:
    with_tokenizer(tmp_path)
    write_trained(tmp_path, steps(1, 2))
    (tmp_path / FOLDER).mkdir()
    writer = IndexWriter(tmp_path, tmp_path / FOLDER)
    writer.round()
    before = (tmp_path / FOLDER / MANIFEST).stat()
    writer.round()
    after = (tmp_path / FOLDER / MANIFEST).stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_a_folder_that_cannot_be_written_has_its_index_in_the_cache(tmp_path: Path) -> None:
    run, other = tmp_path / "run", tmp_path / "other"
    for folder in (run, other):
        folder.mkdir()
        (folder / FOLDER).write_text("in the way")
    found = [index_folder(folder, tmp_path / "cache") for folder in (run, other)]
    assert found[0].parent == found[1].parent == tmp_path / "cache" and found[0] != found[1]
    assert index_folder(tmp_path, tmp_path / "cache") == tmp_path / FOLDER


def test_only_one_process_writes_an_index(tmp_path: Path) -> None:
    with writing(tmp_path) as first, writing(tmp_path) as second:
        assert first and not second
    with writing(tmp_path) as again:
        assert again


def test_a_worker_indexes_when_it_is_woken_and_ends_with_its_owner(tmp_path: Path) -> None:
    with_tokenizer(tmp_path)
    path = write_trained(tmp_path, steps(1, 2))
    reader = IndexReader(tmp_path / FOLDER)
    worker = IndexWorker(tmp_path, tmp_path / FOLDER)
    worker.wake()
    wait_until(lambda: steps_in(reader) == [1, 2] and not worker.is_working)
    with path.open("ab") as file:
        file.write(record_batch(*steps(3, 3)[0]).serialize())
    worker.wake()
    wait_until(lambda: steps_in(reader) == [1, 2, 3])
    assert worker.note() is None
    worker.close()
    worker.wake()  # does nothing
    assert not worker.is_working


def test_a_worker_that_cannot_write_says_so(tmp_path: Path) -> None:
    (tmp_path / FOLDER).write_text("in the way")
    worker = IndexWorker(tmp_path, tmp_path / FOLDER)
    worker.wake()
    wait_until(lambda: worker.note() is not None)
    assert "is not written" in worker.note()
    worker.close()


def test_a_worker_that_dies_now_and_then_is_started_again(tmp_path: Path) -> None:
    with_tokenizer(tmp_path)
    write_trained(tmp_path, steps(1, 1))
    worker = IndexWorker(tmp_path, tmp_path / FOLDER)
    for _ in range(4):
        worker.wake()
        worker.wait(60.0)
        process = worker._process
        assert process is not None and worker.note() is None
        process.kill()
        wait_until(lambda: worker._process is None)
    assert worker.note() is None
    worker.close()


def test_a_worker_that_comes_to_no_end_of_a_round_is_given_up(tmp_path: Path) -> None:
    worker = IndexWorker(tmp_path, tmp_path / FOLDER)
    worker._command = [sys.executable, "-c", "input()"]
    for _ in range(3):
        worker.wake()
        wait_until(lambda: worker._process is None)
    assert "given up" in (worker.note() or "")
    worker.close()


def test_a_worker_that_is_killed_while_it_indexes_goes_on(tmp_path: Path) -> None:
    """Killed again and again as soon as there is a part, it leaves an index that can be used."""
    with_tokenizer(tmp_path)
    write_trained(tmp_path, steps(1, 400, groups=8))
    reader = IndexReader(tmp_path / FOLDER)
    code = (
        "import sys; from pathlib import Path\n"
        "from deploy.inspector.indexing import IndexWriter\n"
        "run = Path(sys.argv[1]); (run / 'inspector').mkdir(exist_ok=True)\n"
        "print('begun', flush=True); IndexWriter(run, run / 'inspector', 64).round()\n"
    )
    sizes = [0]
    while sizes[-1] < 6400:
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE
        )
        assert process.stdout is not None and process.stdout.readline() == b"begun\n"
        if len(sizes) < 3:
            wait_until(lambda: reader.now().size > sizes[-1])
            os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        sizes.append(reader.now().size)
        index = reader.now()
        expected = np.repeat(np.arange(1, 401), 16)[: index.size]
        assert index.columns["step"].tolist() == expected.tolist()
    assert len(sizes) >= 3, sizes


def test_a_reader_takes_what_has_not_changed_from_memory(tmp_path: Path) -> None:
    with_tokenizer(tmp_path)
    write_trained(tmp_path, steps(1, 3))
    reader = indexed(tmp_path)
    first = reader.now()
    assert reader.now().columns is first.columns
