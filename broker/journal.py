"""Read a run's journal: python -m broker.journal RUN [verify | dump FILE | replay | repair]

verify   (the default) checks every checksum and sums up what happened
dump     FILE.jsonl: the records; FILE.parquet: the trajectories that are still there
replay   makes every call once more and compares what comes of it; needs the run's dataset
repair   cuts the journal at its first damage: what came after is generated and trained again
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from broker.storage.disk import FolderDisk
from broker.storage.durable import STORED
from broker.storage.frames import CorruptJournal, Record, read_records
from broker.storage.recovery import arguments_of, recover
from broker.storage.segments import Place
from broker.storage.store import Damaged
from common.errors import VisionOpdError
from common.journal_file import JOURNAL
from common.output import ends_with_its_reader


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m broker.journal",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, help="run folder, or its journal folder")
    parser.add_argument("action", nargs="?", choices=ACTIONS, default="verify")
    parser.add_argument("file", nargs="?", type=Path, help="dump writes it: *.jsonl or *.parquet")
    parser.add_argument("--data", type=Path, help="dataset for replay, if it has moved")
    arguments = parser.parse_args(argv)
    try:
        ACTIONS[arguments.action](_folder(arguments.run), arguments)
    except (VisionOpdError, OSError) as error:
        sys.exit(f"journal error: {error}")


# ---- actions -------------------------------------------------------------------------------------
def verify(folder: Path, arguments: argparse.Namespace) -> None:
    content = (folder / JOURNAL).read_bytes()
    records = list(read_records(content))
    if not records:
        raise CorruptJournal("not even the first record is whole")
    for line in summary(records):
        print(line)
    if torn := len(content) - records[-1].end:
        print(f"torn end: {torn} bytes behind the last record (nothing of it was acknowledged)")
    _verify_segments(folder, records)


def dump(folder: Path, arguments: argparse.Namespace) -> None:
    if arguments.file is None or arguments.file.suffix not in (".jsonl", ".parquet"):
        raise VisionOpdError("dump to what? Fix: name a file that ends in .jsonl or .parquet")
    if arguments.file.suffix == ".parquet":
        count = _dump_trajectories(folder, arguments.file)
        print(f"{count} trajectories written to {arguments.file}")
        return
    count = 0
    with arguments.file.open("w", encoding="utf-8") as file:
        for count, record in enumerate(_records(folder), start=1):  # noqa: B007
            file.write(json.dumps(_plain(record._asdict())) + "\n")
    print(f"{count} records written to {arguments.file}")


def replay(folder: Path, arguments: argparse.Namespace) -> None:
    from broker.ledger.entry import Rules
    from common.dataset import Numbered, parsed_rows
    from common.kept_reading import kept_reading
    from common.source import SampleSource

    facts = arguments_of(next(_records(folder)))["facts"]
    path = arguments.data or Path(facts["dataset"])
    if not path.is_file():
        raise VisionOpdError(f"the run's dataset {str(path)!r} is not there. Fix: --data FILE")
    kept = kept_reading(folder.parent)
    left_out = {row.row for row in kept.bad_rows} if kept else set()
    rows = [n for n in parsed_rows(path) if isinstance(n, Numbered) and n.row not in left_out]
    samples = [numbered.sample for numbered in rows]
    source = SampleSource(
        samples,
        epochs=facts["epochs"],
        shuffle=facts["shuffle"],
        seed=facts["seed"],
        student=facts["student"],
    )
    rules = Rules(**{name: facts[name] for name in Rules.__dataclass_fields__})
    found = recover(FolderDisk(folder), source, rules)
    assert found is not None, "its first record has been read"
    print(f"replayed {found.next_record} records: every call came to what it came to then")
    print(f"step {found.ledger.version}, history {found.ledger.history}")
    for name, value in found.ledger.counts().items():
        print(f"  {name:28} {value}")


def repair(folder: Path, arguments: argparse.Namespace) -> None:
    path = folder / JOURNAL
    content = path.read_bytes()
    end = 0
    try:
        for record in read_records(content):
            end = record.end
    except CorruptJournal as damage:
        aside = path.with_suffix(".damaged")
        aside.write_bytes(content)
        print(f"{damage}; the whole journal is kept as {aside.name}")
    if end == len(content):
        print("nothing to repair")
        return
    FolderDisk(folder).truncate(JOURNAL, end)
    print(f"cut at byte {end}: {len(content) - end} bytes are gone")


ACTIONS = {"verify": verify, "dump": dump, "replay": replay, "repair": repair}


# ---- what they are made of -----------------------------------------------------------------------
def summary(records: Sequence[Record]) -> Iterator[str]:
    """Tell what happened, line by line."""
    facts = arguments_of(records[0])["facts"]
    yield (
        f"{len(records)} records over {records[-1].seconds - records[0].seconds:.1f} s: "
        f"{facts['groups_per_step']} groups a step, staleness <= {facts['max_staleness']}"
    )
    for command, count in Counter(record.command for record in records).most_common():
        yield f"  {command:12} {count}"
    verdicts = Counter(r.outcome for r in records if r.command == "submit")
    yield "submits: " + (", ".join(f"{v} {count}" for v, count in verdicts.items()) or "none")
    steps = [
        arguments_of(r)["step"] for r in records if r.command == "acknowledge" and r.outcome is True
    ]
    rewinds = [arguments_of(r)["step"] for r in records if r.command == "rewind"]
    yield f"steps acknowledged: {len(steps)}, the last {steps[-1] if steps else 0}"
    yield f"learners resumed at steps: {', '.join(map(str, rewinds)) or 'none'}"


def _verify_segments(folder: Path, records: Sequence[Record]) -> None:
    places = _places(records)
    there = {place for place in places if (folder / place.segment).exists()}
    damaged = [place for place in there if not _is_whole(folder, place)]
    print(f"groups stored: {len(places)}, pruned since: {len(places) - len(there)}")
    if damaged:
        names = sorted({place.segment for place in damaged})
        raise Damaged(f"{len(damaged)} groups are damaged, in {', '.join(names)}")
    print("all checksums are right")


def _dump_trajectories(folder: Path, file: Path) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from common.group_batch import schema

    count = 0
    with pq.ParquetWriter(file, schema()) as writer:
        for place in _places(list(_records(folder))):
            if (folder / place.segment).exists() and _is_whole(folder, place):
                content = pa.py_buffer(_read(folder, place))
                batch = pa.ipc.read_record_batch(content, schema())
                writer.write_batch(batch)
                count += batch.num_rows
    return count


def _places(records: Sequence[Record]) -> list[Place]:
    stored = (arguments_of(record) for record in records if record.command == STORED)
    return [Place(s["segment"], s["offset"], s["length"], s["checksum"]) for s in stored]


def _is_whole(folder: Path, place: Place) -> bool:
    return place.holds(_read(folder, place))


def _read(folder: Path, place: Place) -> bytes:
    return FolderDisk(folder).read(place.segment, place.offset, place.length)


def _records(folder: Path) -> Iterator[Record]:
    return read_records((folder / JOURNAL).read_bytes())


def _folder(run: Path) -> Path:
    folder = run if (run / JOURNAL).exists() else run / "journal"
    if not (folder / JOURNAL).exists():
        raise VisionOpdError(f"{str(run)!r} holds no journal. Fix: name a run folder")
    return folder


def _plain(value: Any) -> Any:
    """The value in what JSON has: bytes as hexadecimal digits."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value.hex() if isinstance(value, bytes) else value


if __name__ == "__main__":
    with ends_with_its_reader():
        main()
