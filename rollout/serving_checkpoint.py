"""A checkpoint behind OpenAI's HTTP API, for as long as a block runs.

    async with served_checkpoint(Path("exported"), "embedded") as endpoint:
        ...  # ask endpoint.url, with endpoint.key

SGLang runs in its environment, the embedded engine in ours; both chat by the checkpoint's own
template, without a thinking phase (prompt.thinking), and let clients neither pause them nor change
weights.
"""

import asyncio
import contextlib
import json
import shutil
import tempfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from common.chat_template import read_template
from common.config import RunConfig
from common.config_cli import load
from common.engines import EngineName, engine_of
from common.errors import ConfigError
from common.files import json_object_or_empty
from rollout.engine_process import EngineProcess, started_engine

_FOLDER_PARTS = {  # what an engine needs to serve chat with images, any one file of each line
    "config": ("config.json",),
    "weights": ("*.safetensors",),
    "tokenizer": ("tokenizer.json", "vocab.json", "tokenizer.model"),
    "image processor": ("processor_config.json", "preprocessor_config.json"),
}


@dataclass(frozen=True)
class Endpoint:
    """A server of OpenAI's HTTP API."""

    url: str  # ends in /v1, as OpenAI's clients want it
    model: str
    key: str | None = field(repr=False)
    key_file: Path | None
    engine: EngineProcess = field(repr=False)  # watch() raises EngineError when it has died


@contextlib.asynccontextmanager
async def served_checkpoint(
    folder: Path,
    engine: EngineName = "sglang",
    *,
    options: Sequence[str] = (),
    stop: asyncio.Event | None = None,
) -> AsyncIterator[Endpoint]:
    """Serve a Hugging Face folder on a free port of this machine, inside the block.

    Args:
        options: those of a run (--config FILE, --section.key value); rollout, sglang, prompt and
            weights.dtype have a meaning here.
        stop: ends the wait for the server; the block is then entered all the same.

    Raises:
        ConfigError: unknown options, a folder that cannot be served, no environment of SGLang.
        EngineError: the server died, or does not serve in time.
    """
    config = serving_config(folder, ["--rollout.port", "0", *options, "--rollout.engine", engine])
    async with served(config, stop or asyncio.Event()) as endpoint:
        yield endpoint


@contextlib.asynccontextmanager
async def served(config: RunConfig, stop: asyncio.Event) -> AsyncIterator[Endpoint]:
    """Serve the checkpoint of a configuration that `serving_config` has made."""
    log_folder = _log_folder(config)
    async with started_engine(config, 0, log_folder, stop, server_flags(config)) as engine:
        name = Path(config.model.path).name
        yield Endpoint(f"{engine.url}/v1", name, engine.api_key, engine.key_file, engine)
    if config.run.folder is None:  # after a failure its error names the log in there
        shutil.rmtree(log_folder, ignore_errors=True)


def serving_config(folder: Path, options: Sequence[str]) -> RunConfig:
    """The configuration of a server: on this machine alone unless the options say otherwise.

    Raises:
        ConfigError: unknown options, a folder that cannot be served, no environment of SGLang.
    """
    defaults = ["--rollout.host", "127.0.0.1"]
    config = load([*defaults, *options, "--model.path", str(folder.absolute())])
    check_checkpoint(folder)
    engine_of(config).check_folder(folder)
    _check_environment(config)
    return config


def check_checkpoint(folder: Path) -> None:
    """Refuse a folder that lacks a file for chat with images: ConfigError names it."""
    fix = "Fix: name a Hugging Face folder, such as the exported checkpoint of a run"
    if not folder.is_dir():
        raise ConfigError(f"checkpoint {str(folder)!r}: no such folder. {fix}")
    for part, patterns in _FOLDER_PARTS.items():
        if not any(True for pattern in patterns for _ in folder.glob(pattern)):
            raise ConfigError(
                f"checkpoint {str(folder)!r} has no {part}: {' or '.join(patterns)} is missing. "
                f"{fix}"
            )
    if not _templates_in(folder):
        raise ConfigError(
            f"checkpoint {str(folder)!r} has no chat template: chat_template.jinja is missing. "
            "Fix: copy it from the model that training started from"
        )


def _check_environment(config: RunConfig) -> None:
    own = engine_of(config).own
    try:
        if own is not None:
            own.find_python(config)
    except ConfigError as error:
        raise ConfigError(f"{error}, or serve without it: --engine embedded (a CPU)") from None


def server_flags(config: RunConfig) -> list[str]:
    """What serving adds to a rollout server's command line."""
    flags = ["--served-model-name", Path(config.model.path).name, "--no-commands"]
    if config.prompt.chat_template is not None:
        flags += ["--chat-template", str(config.prompt.chat_template.absolute())]
    own, folder = config.prompt.chat_template, Path(config.model.path)
    templates = _templates_in(folder) if own is None else [read_template(own)]
    return [*flags, *engine_of(config).serving_flags(config, templates)]


def _log_folder(config: RunConfig) -> Path:
    """The run's log folder, if one is named; else a new one, and none in the working folder."""
    if config.run.folder is not None:
        return config.run.folder / "logs"
    return Path(tempfile.mkdtemp(prefix="vision-opd-serve-"))


def _templates_in(folder: Path) -> list[str]:
    """The texts of the chat templates that a checkpoint may be served with."""
    jinja = folder / "chat_template.jinja"
    files = [
        json_object_or_empty(folder / f"{n}.json") for n in ("chat_template", "tokenizer_config")
    ]
    found = [json.dumps(file["chat_template"]) for file in files if file.get("chat_template")]
    return [*([read_template(jinja)] if jinja.is_file() else []), *found]
