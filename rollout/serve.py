"""`python -m rollout.serve CHECKPOINT`: chat with an exported checkpoint, over OpenAI's HTTP API.

SGLang runs in its environment, as rollout.main runs it, with the checkpoint's own chat template and
without a thinking phase (prompt.thinking). Ctrl-C or SIGTERM ends it.

Clients send the key as they send OpenAI theirs; it does not let them pause it or change weights.
Pictures come in the request, as data URLs; web pages and other names of this machine are turned
away, as in training (common.http_gate).
"""

import asyncio
import json
import shlex
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from common import lifecycle
from common.chat_template import SWITCH, names_switch, read_template
from common.config import RunConfig
from common.config_cli import exit_with, load
from common.errors import ConfigError, EngineError
from common.logs import configure_logging
from common.output import ends_with_its_reader, goes_on_without_readers
from rollout.engine_process import EngineProcess, started_engine

USAGE = """\
usage: python -m rollout.serve CHECKPOINT [--host HOST] [--port PORT] [--api-key-file FILE]
                               [--config FILE] [--section.key value ...]

Serves a Hugging Face folder with SGLang: chat with images as OpenAI's API has it.

  CHECKPOINT           the folder, for instance an exported one of a run
  --host HOST          address to listen on (default: 127.0.0.1); any other needs a key file
  --port PORT          port to listen on (default: 30000)
  --api-key-file FILE  file with the key that clients must send (default: a new key at each start,
                       in a file that is named then)
  --config FILE, --section.key value
                       as of a run; the sections rollout, sglang and prompt, and
                       weights.dtype (default: bfloat16) have a meaning here"""
_SHORT_FLAGS = {
    "--host": "--rollout.host",
    "--port": "--rollout.port",
    "--api-key-file": "--sglang.api_key_file",
}
_FOLDER_PARTS = {  # what SGLang needs to serve chat with images, any one file of each line
    "config": ("config.json",),
    "weights": ("*.safetensors",),
    "tokenizer": ("tokenizer.json", "vocab.json", "tokenizer.model"),
    "image processor": ("processor_config.json", "preprocessor_config.json"),
}
_TEMPLATES = ("chat_template.jinja", "chat_template.json")


def main(argv: Sequence[str] | None = None) -> None:
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or {"-h", "--help"} & set(arguments):
        with ends_with_its_reader():
            print(USAGE)
        raise SystemExit(0 if arguments else 2)
    with goes_on_without_readers():
        configure_logging("serve")
        try:
            config = read_arguments(arguments)
            lifecycle.run(lambda stop: serve(config, stop))
        except ConfigError as error:
            exit_with(error)
        except EngineError as error:
            print(f"serving failed: {error}", file=sys.stderr)
            raise SystemExit(1) from None


def read_arguments(arguments: Sequence[str]) -> RunConfig:
    """The configuration of the server.

    Raises:
        ConfigError: unknown options, or a folder that cannot be served.
    """
    checkpoint, *options = arguments
    if checkpoint.startswith("-"):
        raise ConfigError(f"{checkpoint} stands where the checkpoint belongs. Fix:\n{USAGE}")
    check_checkpoint(Path(checkpoint))
    defaults = ["--rollout.host", "127.0.0.1", "--rollout.port", "30000"]
    ours = ["--rollout.engine", "sglang", "--model.path", str(Path(checkpoint).absolute())]
    return load([*defaults, *map(_long_form, options), *ours])


def check_checkpoint(folder: Path) -> None:
    """Raises ConfigError with the file that is missing for chat with images."""
    mend = "Fix: name a Hugging Face folder, such as the exported checkpoint of a run"
    if not folder.is_dir():
        raise ConfigError(f"checkpoint {str(folder)!r}: no such folder. {mend}")
    for part, patterns in _FOLDER_PARTS.items():
        if not any(True for pattern in patterns for _ in folder.glob(pattern)):
            raise ConfigError(
                f"checkpoint {str(folder)!r} has no {part}: {' or '.join(patterns)} is missing. "
                f"{mend}"
            )
    for path in folder.glob("*.safetensors"):
        if not path.name.startswith("model"):
            raise ConfigError(
                f"checkpoint {str(folder)!r} holds {path.name} beside the model's files: SGLang "
                "would load it over the model. Fix: move it away"
            )
    if not any((folder / name).is_file() for name in _TEMPLATES) and not _template_in(
        folder / "tokenizer_config.json"
    ):
        raise ConfigError(
            f"checkpoint {str(folder)!r} has no chat template: {_TEMPLATES[0]} is missing. "
            "Fix: copy it from the model that training started from"
        )


def server_flags(config: RunConfig) -> list[str]:
    """What serving adds to a rollout server's command line."""
    name = Path(config.model.path).name
    flags = ["--served-model-name", name, "--no-commands"]
    if config.prompt.chat_template is not None:
        flags += ["--chat-template", str(config.prompt.chat_template.absolute())]
    elif any(Path(config.model.path).glob("additional_chat_templates/*.jinja")):
        flags += ["--hf-chat-template-name", "default"]  # SGLang's choice is the first one it finds
    if any(map(names_switch, _templates(config))):  # transformers logs each call otherwise
        # A request may still ask for the other mode.
        flags += ["--default-chat-template-kwargs", json.dumps({SWITCH: config.prompt.thinking})]
    return flags


async def serve(config: RunConfig, stop: asyncio.Event) -> None:
    """Runs the server until `stop` is set.

    Raises:
        ConfigError: it cannot be started so.
        EngineError: it died.
    """
    log_folder = _log_folder(config)
    async with started_engine(config, 0, log_folder, stop, server_flags(config)) as engine:
        if not stop.is_set():
            print(welcome(config, engine.url, engine.key_file), flush=True)
            await _until(stop, engine)
    if config.run.folder is None:  # after a failure its error names the log in there
        shutil.rmtree(log_folder, ignore_errors=True)


def _log_folder(config: RunConfig) -> Path:
    """That of the run, if one is named; else a new one, and none in the working folder."""
    if config.run.folder is not None:
        return config.run.folder / "logs"
    return Path(tempfile.mkdtemp(prefix="vision-opd-serve-"))


def welcome(config: RunConfig, url: str, key_file: Path | None) -> str:
    """Where the server is, and a command (of bash) that asks it about an image."""
    name = Path(config.model.path).name
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,IMAGE"}}
    question = {"type": "text", "text": "What does the sign say?"}
    request = {"model": name, "messages": [{"role": "user", "content": [image, question]}]}
    before, after = map(shlex.quote, json.dumps(request).rsplit("IMAGE", 1))
    headers = ["-H 'Content-Type: application/json'"]
    client = f"export OPENAI_BASE_URL={url}/v1"
    if key_file is not None:
        key = f'"$(cat {shlex.quote(str(key_file.absolute()))})"'
        client += f" OPENAI_API_KEY={key}"
        # Through a pipe: curl's arguments can be seen by everybody.
        headers.append(f"-H @<(printf 'Authorization: Bearer %s' {key})")
    return f"""
{name} is served at {url}/v1 (OpenAI's API). For OpenAI's client:

{client}

To ask it about IMAGE.png:

(printf %s {before}
 base64 <IMAGE.png | tr -d '\\n'
 printf %s {after}) |
curl --noproxy '*' {url}/v1/chat/completions {" ".join(headers)} -d @-
"""


async def _until(stop: asyncio.Event, engine: EngineProcess) -> None:
    death = asyncio.ensure_future(engine.watch())
    stopped = asyncio.ensure_future(stop.wait())
    await asyncio.wait((death, stopped), return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if death.done():
        await death
    death.cancel()


def _long_form(option: str) -> str:
    flag, equals, value = option.partition("=")
    return _SHORT_FLAGS.get(flag, flag) + equals + value


def _templates(config: RunConfig) -> list[str]:
    """The texts of those that may be served."""
    if config.prompt.chat_template is not None:
        return [read_template(config.prompt.chat_template)]
    folder = Path(config.model.path)
    jinja = folder / "chat_template.jinja"
    found = [read_template(jinja)] if jinja.is_file() else []
    for name in ("chat_template.json", "tokenizer_config.json"):
        if (template := _template_in(folder / name)) is not None:
            found.append(template)
    return found


def _template_in(path: Path) -> str | None:
    """What stands under "chat_template" in a file; None: nothing does."""
    try:
        template = json.loads(path.read_text(encoding="utf-8")).get("chat_template")
    except (OSError, ValueError, AttributeError):
        return None
    return None if template is None else json.dumps(template)  # it may be several, by name


if __name__ == "__main__":
    main()
