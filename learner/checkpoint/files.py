"""The files of one checkpoint, from a cut. `learner.checkpoint` shows the folder."""

from collections.abc import Sequence
from pathlib import Path

from common.config import RunConfig
from common.config_cli import dump_toml
from common.files import replace_json, sha256_of_file, sync_tree
from learner.checkpoint.config_dtype import with_dtype
from learner.checkpoint.cut import Cut
from learner.checkpoint.fellows import Fellows
from learner.checkpoint.folder import Digests
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


def write_checkpoint(
    folder: Path, cut: Cut, start: Start, config: RunConfig, oldest: int, fellows: Fellows
) -> None:
    """Fill a new folder and sync it, with the other ranks' help. The first rank calls it.

    Args:
        start: gives all that training does not change.
        oldest: the oldest step that the broker will let a learner go back to.

    Raises:
        OSError: the disk refuses, here or on another rank.
        CheckpointError: another rank failed otherwise.
    """
    folder.mkdir()
    parts = fellows.lead(lambda: write_parts(folder, cut, start))
    digests = _joined(parts) | _of(_write_alone(folder, cut, start))
    write_side_files(folder, start.files.side_files)
    (folder / START_CONFIG).write_bytes(start.files.first_config)
    (folder / "run.toml").write_text(dump_toml(config), encoding="utf-8")
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


def write_parts(folder: Path, cut: Cut, start: Start) -> dict[str, str]:
    """This rank's part of all files that ranks write together; digests of the parts by file.

    Raises:
        OSError: the disk refuses.
    """
    if not cut.is_writer:
        return {}
    forms, names = cut.student.called(start.names_in_files)
    written = write_model(
        folder, forms, lambda name: cut.student[names[name]], _MAX_SHARD_BYTES, cut.part
    )
    parts = {TEACHER: cut.teacher, ADAPTERS: cut.adapters, OPTIMIZER: cut.optimizer}
    for name, tensors in parts.items():
        if tensors.forms or name == OPTIMIZER:  # which says something before the first update too
            facts = cut.optimizer_facts if name == OPTIMIZER else None
            written[name] = write_tensors(
                folder / name, tensors.forms, tensors.__getitem__, facts, cut.part
            )
    return {name: file.sha256 for name, file in written.items()}


def _write_alone(folder: Path, cut: Cut, start: Start) -> dict[str, Written]:
    """The tensors that are not shared among ranks, and config.json."""
    forms = cut.student.forms.values()
    dtype = next(form.dtype for form in forms if form.dtype.is_floating_point)
    (folder / CONFIG).write_bytes(with_dtype(start.files.config, name_of(dtype)))
    random = forms_of(cut.random)
    written = {RANDOM: write_tensors(folder / RANDOM, random, cut.random.__getitem__)}
    if start.unknown:
        unknown = {name: start.files.tensors.forms[name] for name in start.unknown}
        read = start.files.tensors.__getitem__
        written[UNKNOWN] = write_tensors(folder / UNKNOWN, unknown, read)
    return written


def _joined(parts: Sequence[dict[str, str]]) -> Digests:
    """Digests by file, from those of each rank that has written."""
    written = [part for part in parts if part]
    if len(written) == 1:
        return dict(written[0])
    return {name: [part[name] for part in written] for name in written[0]}


def _of(written: dict[str, Written]) -> Digests:
    return {name: file.sha256 for name, file in written.items()}
