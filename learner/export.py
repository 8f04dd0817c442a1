"""`python -m learner.export CHECKPOINT OUT`: a folder that transformers and SGLang load by itself.

    OUT/
        config.json             with the dtype of the export
        generation_config.json, tokenizer, processor, chat template    as the checkpoint has them
        model.safetensors       or parts of at most --max-shard-gib with an index
        MANIFEST.json           size and sha256 of every other file, and what was exported

Weights go through one tensor at a time. The checkpoint is only read. OUT is written under another
name and then renamed, so it is whole or not there.
"""

import argparse
import json
import os
import shutil
import sys
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.errors import CheckpointError, ConfigError, VisionOpdError
from common.files import replace_json, sha256_of_file, sync, sync_tree
from learner.checkpoint.files import STATE, TEACHER
from learner.checkpoint.folder import check_files, read_state, unusable
from learner.checkpoint.tensor_files import (
    INDEX,
    Form,
    TensorFiles,
    Written,
    model_files,
    write_model,
)

MANIFEST = "MANIFEST.json"
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
MODELS = ("student", "teacher")
_SETTINGS = (  # beside config.json; weights and what belongs to training alone stay behind
    "generation_config.json", "tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json",
    "added_tokens.json", "*processor_config.json", "chat_template.*",
)  # fmt: skip
_DTYPE_KEYS = ("dtype", "torch_dtype")


def main(argv: Sequence[str] | None = None) -> None:
    options = _arguments(argv)
    try:
        if options.verify is not None:
            facts = verify(options.verify)
            print(f"{options.verify}: {len(facts['files'])} files are as they were exported")
        else:
            max_shard_bytes = int(options.max_shard_gib * 2**30)
            export(options.checkpoint, options.out, options.model, options.dtype, max_shard_bytes)
            print(f"{options.out}: {options.model} of {options.checkpoint}, {options.dtype}")
    except ConfigError as error:
        print(f"cannot export: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except VisionOpdError as error:
        print(f"failed: {error}", file=sys.stderr)
        raise SystemExit(1) from None


def export(
    checkpoint: Path, out: Path, model: str, dtype: str, max_shard_bytes: int = 5 * 2**30
) -> None:
    """Make a Hugging Face folder of a checkpoint's student or teacher.

    Args:
        checkpoint: a checkpoint of a run; for the student any Hugging Face folder will do.
        out: where it goes; not there yet, or empty.
        model: "student" or "teacher".
        dtype: "bfloat16" or "float32", of all floating-point tensors.
        max_shard_bytes: of tensors in one file.

    Raises:
        ConfigError: `out` is in use, or there is no such checkpoint or teacher.
        CheckpointError: a file of the checkpoint is damaged, or the disk refuses.
    """
    _check_paths(checkpoint, out)
    state = read_state(checkpoint) if (checkpoint / STATE).exists() else None
    weights = _weight_files(checkpoint, model, state)
    settings = sorted({path for pattern in _SETTINGS for path in checkpoint.glob(pattern)})
    if state is not None:
        used = {str(path.relative_to(checkpoint)) for path in (*weights, *settings)}
        used |= {"config.json", INDEX}
        check_files(checkpoint, {n: d for n, d in state["files"].items() if n in used})
    names = state["names_in_files"] if state is not None and model == "teacher" else {}
    with _new_folder(out) as part:
        for path in settings:
            shutil.copyfile(path, part / path.name)
        _write_config(checkpoint / "config.json", part / "config.json", dtype)
        scale = _adapter_scale(checkpoint) if model == "teacher" else 0.0
        written = _write_weights(weights, part, names, scale, DTYPES[dtype], max_shard_bytes)
        source = {
            "checkpoint": checkpoint.absolute().name,
            "version": None if state is None else state["version"],
            "model": model,
            "dtype": dtype,
        }
        replace_json(part / MANIFEST, _manifest(part, source, written), is_synced=True)


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
    there = {str(p.relative_to(folder)) for p in folder.rglob("*") if not p.is_dir()} - {MANIFEST}
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


def _weight_files(checkpoint: Path, model: str, state: dict[str, Any] | None) -> list[Path]:
    if model == "teacher":
        if state is None or not (checkpoint / TEACHER).is_file():
            raise ConfigError(
                f"{checkpoint / TEACHER}: there is no teacher (teacher.policy current and fixed "
                "keep none). Fix: --model student"
            )
        return [checkpoint / TEACHER]
    try:
        files = model_files(checkpoint)
    except (OSError, ValueError, KeyError) as error:
        raise unusable(checkpoint / INDEX, f"it cannot be read: {error}") from error
    for path in files:
        if not path.is_file():
            raise unusable(path, "it is missing")
    return files


def _adapter_scale(checkpoint: Path) -> float:
    """By which adapters count, from the run's own configuration; 0 without any."""
    path = checkpoint / "run.toml"
    try:
        model = tomllib.loads(path.read_text(encoding="utf-8"))["model"]
        rank: int = model["lora_rank"]
        return float(model["lora_alpha"]) / rank if rank else 0.0
    except (OSError, ValueError, KeyError) as error:
        raise unusable(path, f"it cannot be read: {error}") from error


def _write_weights(
    weights: Sequence[Path],
    folder: Path,
    names: dict[str, str],
    adapter_scale: float,
    dtype: torch.dtype,
    max_shard_bytes: int,
) -> dict[str, Written]:
    """Adapters are merged into the weights that they lie beside, as those of a student are.

    Args:
        names: those in `weights` -> those in the new files, where they differ.
    """
    from safetensors import SafetensorError

    try:
        with TensorFiles(weights) as tensors:
            base = [name for name in tensors if not name.endswith((".lora_a", ".lora_b"))]
            sources = {names.get(name, name): name for name in base}
            forms = {n: _cast(tensors.forms[old], dtype) for n, old in sources.items()}

            def read(name: str) -> Tensor:
                tensor = tensors[sources[name]]
                adapter = sources[name].removesuffix("weight") + "lora_"
                if f"{adapter}a" in tensors:
                    change = tensors[f"{adapter}b"] @ tensors[f"{adapter}a"]
                    tensor = tensor.float() + adapter_scale * change
                return tensor.to(forms[name].dtype)

            return write_model(folder, dict(sorted(forms.items())), read, max_shard_bytes)
    except SafetensorError as error:
        raise unusable(weights[0].parent, f"its weights cannot be read: {error}") from error


def _cast(form: Form, dtype: torch.dtype) -> Form:
    return Form(dtype if form.dtype.is_floating_point else form.dtype, form.shape)


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


def _write_config(source: Path, target: Path, dtype: str) -> None:
    try:
        config = json.loads(source.read_text(encoding="utf-8"))
    except ValueError as error:
        raise unusable(source, f"it cannot be read: {error}") from error
    for part in (config, *(value for value in config.values() if isinstance(value, dict))):
        if part is config or any(key in part for key in _DTYPE_KEYS):
            for key in _DTYPE_KEYS:
                part.pop(key, None)
            part["dtype"] = dtype
    target.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _manifest(
    folder: Path, source: dict[str, object], written: dict[str, Written]
) -> dict[str, Any]:
    """Of weights it tells what was meant to be written, of the rest what is there."""
    files = dict(written)
    for path in folder.iterdir():
        if path.name not in files:
            files[path.name] = Written(sha256_of_file(path), path.stat().st_size)
    return {
        "exported_from": source,
        "files": {n: {"sha256": f.sha256, "bytes": f.num_bytes} for n, f in sorted(files.items())},
    }


def _broken(path: Path, problem: str) -> CheckpointError:
    return CheckpointError(f"{path}: {problem}. Fix: export the checkpoint again")


# ---- command line --------------------------------------------------------------------------------
def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m learner.export",
        description="Makes a Hugging Face folder of a checkpoint, or checks one that was made.",
        allow_abbrev=False,
    )
    parser.add_argument("checkpoint", type=Path, nargs="?", help="RUN/checkpoints/step-N")
    parser.add_argument("out", type=Path, nargs="?", help="the new folder")
    parser.add_argument("--model", choices=MODELS, default="student", help="default: student")
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16", help="default: bfloat16")
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
    main()
