"""The files of one checkpoint, from a cut. `learner.checkpoint` shows the folder."""

from pathlib import Path

from common.config import RunConfig
from common.config_cli import dump_toml
from common.files import replace_json, sha256_of_file, sync_tree
from learner.checkpoint.config_dtype import with_dtype
from learner.checkpoint.cut import Cut
from learner.checkpoint.paths import (
    ADAPTERS,
    OPTIMIZER,
    RANDOM,
    START_CONFIG,
    STATE,
    TEACHER,
    UNKNOWN,
)
from learner.checkpoint.side_files import CONFIG, write_side_files
from learner.checkpoint.start import Start, name_of
from learner.checkpoint.tensor_files import Written, forms_of, write_model, write_tensors

_MAX_SHARD_BYTES = 5 * 2**30


def write_checkpoint(folder: Path, cut: Cut, start: Start, config: RunConfig, oldest: int) -> None:
    """Fill a new folder and sync it.

    Args:
        start: gives all that training does not change.
        oldest: the oldest step that the broker will let a learner go back to.

    Raises:
        OSError: the disk refuses.
    """
    folder.mkdir()
    written = _write_student(folder, cut, start)
    written |= _write_training(folder, cut)
    written |= _write_unknown(folder, start)
    write_side_files(folder, start.files.side_files)
    (folder / START_CONFIG).write_bytes(start.files.first_config)
    (folder / "run.toml").write_text(dump_toml(config), encoding="utf-8")
    digests = {name: file.sha256 for name, file in written.items()}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digests.setdefault(str(path.relative_to(folder)), sha256_of_file(path))
    state = {
        "version": cut.version,
        "seed": config.run.seed,
        "oldest": oldest,
        "names_in_files": start.names_in_files,
        "dtypes": start.files.dtypes,
        "end_token_ids": start.end_token_ids,
        "files": digests,
    }
    replace_json(folder / STATE, state, is_synced=True)
    sync_tree(folder)


def _write_student(folder: Path, cut: Cut, start: Start) -> dict[str, Written]:
    names = start.names_in_files
    student = {names.get(name, name): tensor for name, tensor in cut.student.items()}
    dtype = next(t.dtype for t in student.values() if t.is_floating_point())
    (folder / CONFIG).write_bytes(with_dtype(start.files.config, name_of(dtype)))
    return write_model(folder, forms_of(student), student.__getitem__, _MAX_SHARD_BYTES)


def _write_training(folder: Path, cut: Cut) -> dict[str, Written]:
    parts = {
        TEACHER: cut.teacher,
        ADAPTERS: cut.adapters,
        OPTIMIZER: cut.optimizer,
        RANDOM: cut.random,
    }
    written = {}
    for name, tensors in parts.items():
        if tensors or name == OPTIMIZER:  # which says something before the first update too
            facts = cut.optimizer_facts if name == OPTIMIZER else None
            forms, read = forms_of(tensors), tensors.__getitem__
            written[name] = write_tensors(folder / name, forms, read, facts)
    return written


def _write_unknown(folder: Path, start: Start) -> dict[str, Written]:
    if not start.unknown:
        return {}
    forms = {name: start.files.tensors.forms[name] for name in start.unknown}
    return {UNKNOWN: write_tensors(folder / UNKNOWN, forms, start.files.tensors.__getitem__)}
