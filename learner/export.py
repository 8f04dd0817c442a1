"""`python -m learner.export CHECKPOINT OUT`: a folder that transformers and SGLang load.

Its layout is in `learner.checkpoint`. The checkpoint is only read.
"""

import argparse
import json
import os
import shutil
import sys
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from common.errors import CheckpointError, ConfigError, VisionOpdError
from common.files import replace_json, sha256_of_file, sync, sync_tree
from common.model_files import INDEX, weight_files
from common.output import ends_with_its_reader
from learner.checkpoint.export_dtypes import DTYPES, START, Dtypes, dtypes_of
from learner.checkpoint.export_settings import read_settings
from learner.checkpoint.export_teacher import TeacherTensors, opened_teacher
from learner.checkpoint.folder import check_files, read_state, readable, unusable
from learner.checkpoint.paths import ADAPTERS, START_CONFIG, STATE, TEACHER, UNKNOWN
from learner.checkpoint.side_files import CONFIG, TEMPLATES, list_side_files, write_side_files
from learner.checkpoint.tensor_files import TensorFiles, Written, write_model

MANIFEST = "MANIFEST.json"
MODELS = ("student", "teacher")
_SEVERAL = (
    "it has several chat templates, of which SGLang takes the first: give it "
    "--hf-chat-template-name default (rollout.serve does)"
)


def main(argv: Sequence[str] | None = None) -> None:
    options = _arguments(argv)
    try:
        if options.verify is not None:
            facts = verify(options.verify)
            print(f"{options.verify}: {len(facts['files'])} files are as they were exported")
        else:
            max_shard_bytes = int(options.max_shard_gib * 2**30)
            facts = export(
                options.checkpoint, options.out, options.model, options.dtype, max_shard_bytes
            )
            print(f"{options.out}: {options.model} of {options.checkpoint}, dtype {options.dtype}")
            print(_of_template(facts["thinking_default"]))
            if any(options.out.glob(f"{TEMPLATES}/*.jinja")):
                print(_SEVERAL)
    except ConfigError as error:
        print(f"cannot export: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except VisionOpdError as error:
        print(f"failed: {error}", file=sys.stderr)
        raise SystemExit(1) from None


def export(
    checkpoint: Path, out: Path, model: str, dtype: str = START, max_shard_bytes: int = 5 * 2**30
) -> dict[str, Any]:
    """Make a Hugging Face folder of a checkpoint's student or teacher.

    Args:
        checkpoint: a checkpoint of a run; for the student any Hugging Face folder will do.
        out: where it goes; not there yet, or empty.
        model: "student" or "teacher".
        dtype: "start": each tensor as the run's start has it; of a checkpoint that does not know,
            as "bfloat16". "bfloat16": all floating-point tensors of the model but those that files
            hold in float32 beside it (`common.weight_dtypes`). "float32": all of them.
        max_shard_bytes: of tensors in one file.

    Returns:
        What was exported, as the manifest has it.

    Raises:
        ConfigError: `out` is in use, or there is no such checkpoint or teacher.
        CheckpointError: a file of the checkpoint is damaged, or the disk refuses.
    """
    _check_paths(checkpoint, out)
    state = read_state(checkpoint) if (checkpoint / STATE).exists() else None
    weights = _student_files(checkpoint)
    is_teacher = model == "teacher"
    if is_teacher:
        _check_teacher(checkpoint)
    unknown = [checkpoint / UNKNOWN] if state is not None and UNKNOWN in state["files"] else []
    if state is not None:
        used = {str(path.relative_to(checkpoint)) for path in (*weights, *unknown)}
        used |= {CONFIG, INDEX, START_CONFIG, "run.toml", *list_side_files(checkpoint)}
        used |= {TEACHER, ADAPTERS} if is_teacher else set()
        check_files(checkpoint, {n: d for n, d in state["files"].items() if n in used})
    dtypes = dtypes_of(dtype, state)
    settings = read_settings(checkpoint, state, dtypes.in_config)
    with _new_folder(out) as part:
        write_side_files(part, settings.files)
        with (
            _readable_weights(checkpoint),
            _opened(checkpoint, weights, state if is_teacher else None) as tensors,
            TensorFiles(unknown) as others,
        ):
            written = _write_weights(tensors, others, part, dtypes, max_shard_bytes)
        facts = {
            "checkpoint": checkpoint.absolute().name,
            "version": None if state is None else state["version"],
            "model": model,
            "dtype": dtype,
            "thinking_default": settings.thinking_default,
        }
        replace_json(part / MANIFEST, _manifest(part, facts, written), is_synced=True)
    return facts


def verify(folder: Path) -> dict[str, Any]:
    """Check an exported folder against its manifest, which is returned.

    Raises:
        ConfigError: it has no manifest.
        CheckpointError: a file is missing, damaged, or not of the export.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise ConfigError(f"{path}: no such file. Fix: name a folder made by learner.export")
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        expected = {n: Written(f["sha256"], f["bytes"]) for n, f in manifest["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _broken(path, f"it cannot be read: {error}") from error
    there = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir()} - {
        MANIFEST
    }
    if strange := sorted(there - expected.keys()):
        raise CheckpointError(
            f"{folder / strange[0]}: it is not of the export; servers might load it. "
            "Fix: move it away"
        )
    for name, file in expected.items():
        if name not in there:
            raise _broken(folder / name, "it is missing")
        size = (folder / name).stat().st_size
        if size != file.num_bytes:
            raise _broken(folder / name, f"it has {size} bytes, not {file.num_bytes}")
        if sha256_of_file(folder / name) != file.sha256:
            raise _broken(folder / name, "its sha256 is another")
    return manifest


# ---- what goes in --------------------------------------------------------------------------------
def _check_paths(checkpoint: Path, out: Path) -> None:
    if not (checkpoint / "config.json").is_file():
        raise ConfigError(
            f"{checkpoint}: no config.json is there. "
            "Fix: name a checkpoint, such as RUN/checkpoints/step-000060"
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out}: it exists. Fix: name a new folder, or remove this one")
    source = checkpoint.resolve()
    if source in (out.resolve(), *out.resolve().parents):
        raise ConfigError(
            f"{out}: it is inside the checkpoint, which stays as it is. Fix: name another place"
        )


def _check_teacher(checkpoint: Path) -> None:
    if not (checkpoint / STATE).exists() or not (checkpoint / TEACHER).is_file():
        raise ConfigError(
            f"{checkpoint / TEACHER}: there is no teacher (where teacher.policy is no copy "
            "of the student, none is kept). Fix: --model student"
        )


def _student_files(checkpoint: Path) -> list[Path]:
    with readable(checkpoint / INDEX):
        files = weight_files(checkpoint)
    for path in files:
        if not path.is_file():
            raise unusable(path, "it is missing")
    return files


def _adapter_scale(checkpoint: Path) -> float:
    """The factor of the adapters, from the run's own configuration; 0 without any."""
    path = checkpoint / "run.toml"
    try:
        model = tomllib.loads(path.read_text(encoding="utf-8"))["model"]
        rank: int = model["lora_rank"]
        return float(model["lora_alpha"]) / rank if rank else 0.0
    except (OSError, ValueError, KeyError) as error:
        raise unusable(path, f"it cannot be read: {error}") from error


def _opened(
    checkpoint: Path, student_files: list[Path], state_of_teacher: dict[str, Any] | None
) -> AbstractContextManager[TensorFiles | TeacherTensors]:
    if state_of_teacher is None:
        return TensorFiles(student_files)
    names, scale = state_of_teacher["names_in_files"], _adapter_scale(checkpoint)
    return opened_teacher(checkpoint, student_files, names, scale)


def _write_weights(
    tensors: TensorFiles | TeacherTensors,
    others: TensorFiles,
    folder: Path,
    dtypes: Dtypes,
    max_shard_bytes: int,
) -> dict[str, Written]:
    """Write the weights in parts, and an index if there are several.

    Args:
        others: tensors that go through as they are.
    """
    forms = {name: dtypes.form(name, form) for name, form in tensors.forms.items()}

    def read(name: str) -> Tensor:
        return others[name] if name in others else tensors[name].to(forms[name].dtype)

    every = dict(sorted((forms | others.forms).items()))
    return write_model(folder, every, read, max_shard_bytes)


@contextmanager
def _readable_weights(folder: Path) -> Iterator[None]:
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        raise unusable(folder, f"its weights cannot be read: {error}") from error


# ---- what comes out ------------------------------------------------------------------------------
@contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """A folder that takes the place of `out` when it is complete, and else leaves nothing."""
    part = out.with_name(f".{out.name}.part")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(part, ignore_errors=True)  # of an export that was killed
        part.mkdir()
        yield part
        sync_tree(part)
        os.replace(part, out)
        sync(out.parent)
    except OSError as error:
        raise CheckpointError(f"{out}: cannot be written: {error}. Fix: see to the disk") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _manifest(
    folder: Path, source: dict[str, object], written: dict[str, Written]
) -> dict[str, Any]:
    """The manifest: weights as they were to be written, other files as they are."""
    files = dict(written)
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name not in files:
            files[name] = Written(sha256_of_file(path), path.stat().st_size)
    return {
        "exported_from": source,
        "files": {n: {"sha256": f.sha256, "bytes": f.num_bytes} for n, f in sorted(files.items())},
    }


def _broken(path: Path, problem: str) -> CheckpointError:
    return CheckpointError(f"{path}: {problem}. Fix: export the checkpoint again")


# ---- command line --------------------------------------------------------------------------------
def _of_template(thinking_default: bool | None) -> str:
    if thinking_default is None:
        return "chat template: as it was"
    value = "true" if thinking_default else "false"
    return (
        f"chat template: enable_thinking = {value} is now its default, as in training; "
        "a request may set it"
    )


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m learner.export",
        description="Makes a Hugging Face folder of a checkpoint, or checks one that was made.",
        allow_abbrev=False,
    )
    parser.add_argument("checkpoint", type=Path, nargs="?", help="RUN/checkpoints/step-N")
    parser.add_argument("out", type=Path, nargs="?", help="the new folder")
    parser.add_argument("--model", choices=MODELS, default="student", help="default: student")
    parser.add_argument(
        "--dtype", choices=(START, *DTYPES), default=START,
        help="start: each tensor as the run's start has it (default)",
    )  # fmt: skip
    parser.add_argument(
        "--max-shard-gib", type=_positive, default=5.0, help="of weights in one file (default: 5)"
    )
    parser.add_argument("--verify", type=Path, metavar="OUT", help="check its manifest; no export")
    options = parser.parse_args(argv)
    if (options.verify is None) == (options.out is None):
        parser.error("give either CHECKPOINT and OUT, or --verify OUT")
    return options


def _positive(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


if __name__ == "__main__":
    with ends_with_its_reader():
        main()
