"""`python -m rollout.serve CHECKPOINT`: chat with an exported checkpoint, over OpenAI's HTTP API.

The engine runs as rollout.main runs it, with the checkpoint's own chat template and without a
thinking phase (prompt.thinking). Ctrl-C or SIGTERM ends it.

Clients send the key as they send OpenAI theirs; it does not let them pause it or change weights.
Pictures come in the request, as data URLs; web pages and other names of this machine are turned
away, as in training (common.http_gate).
"""

import argparse
import asyncio
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from common import lifecycle
from common.config import RunConfig
from common.config_cli import exit_with
from common.errors import ConfigError, EngineError
from common.logs import configure_logging
from common.output import ends_with_its_reader, goes_on_without_readers
from rollout.serving_checkpoint import served, serving_config

PROGRAM = "python -m rollout.serve"
PYTHON = ".venv/bin/python"
EVALUATION = "rollout.evaluate"
LMMS_EVAL_TASKS = "vstar_bench,mmvp,cv_bench,mmstar,pope"
USAGE = """\
usage: python -m rollout.serve CHECKPOINT [--engine ENGINE] [--host HOST] [--port PORT]
                               [--api-key-file FILE] [--config FILE] [--section.key value ...]

Serves a Hugging Face folder: chat with images as OpenAI's API has it.

  CHECKPOINT           the folder, for instance an exported one of a run
  --engine ENGINE      sglang (default), or embedded: ours, for CPUs, without SGLang's environment
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
    parser = argparse.ArgumentParser(prog=PROGRAM, add_help=False, allow_abbrev=False)
    parser.add_argument("--engine", "--rollout.engine", default="sglang")
    # Not a run's own engine: what trained a checkpoint says nothing of what serves it.
    known, options = parser.parse_known_args(options)
    given = [*map(_long_form, options), "--rollout.engine", known.engine]
    return serving_config(Path(checkpoint), ["--rollout.port", "30000", *given])


async def serve(config: RunConfig, stop: asyncio.Event) -> None:
    """Run the server until `stop` is set.

    Raises:
        ConfigError: it cannot be started so.
        EngineError: it died.
    """
    async with served(config, stop) as endpoint:
        if not stop.is_set():
            print(welcome(endpoint.url, endpoint.model, endpoint.key_file), flush=True)
            await lifecycle.until_stopped(endpoint.engine.watch, stop)


def welcome(url: str, name: str, key_file: Path | None) -> str:
    """Where the server is, and a command (of bash) that asks it about an image.

    Args:
        url: ends in /v1.
    """
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,IMAGE"}}
    question = {"type": "text", "text": "What does the sign say?"}
    request = {"model": name, "messages": [{"role": "user", "content": [image, question]}]}
    before, after = map(shlex.quote, json.dumps(request).rsplit("IMAGE", 1))
    headers = ["-H 'Content-Type: application/json'"]
    client = f"export OPENAI_BASE_URL={url}"
    if key_file is not None:
        key = f'"$(cat {shlex.quote(str(key_file.absolute()))})"'
        client += f" OPENAI_API_KEY={key}"
        # Through a pipe: curl's arguments can be seen by everybody.
        headers.append(f"-H @<(printf 'Authorization: Bearer %s' {key})")
    return f"""
{name} is served at {url} (OpenAI's API). For OpenAI's client:

{client}

To ask it about IMAGE.png:

(printf %s {before}
 base64 <IMAGE.png | tr -d '\\n'
 printf %s {after}) |
curl --noproxy '*' {url}/chat/completions {" ".join(headers)} -d @-

To measure it with {EVALUATION}, or with lmms-eval 0.7.3 in an environment of its own:

{evaluation_command(url, key_file)}

{lmms_eval_command(url, name, key_file)}
"""


def evaluation_command(url: str, key_file: Path | None) -> str:
    """The command that asks the server the questions of a published set."""
    key = [] if key_file is None else ["--api-key-file", str(key_file.absolute())]
    words = [PYTHON, "-m", EVALUATION, "--endpoint", url, *key]
    return shlex.join([*words, "--sets", "vstar", "--out", "evaluated"])


def lmms_eval_command(url: str, name: str, key_file: Path | None) -> str:
    """The command that does so with lmms-eval: no key of ours is in its arguments.

    hrbench4k and hrbench8k are not named: they send this key to OpenAI, as that of a judge.
    """
    key = (
        ""
        if key_file is None
        else f'OPENAI_API_KEY="$(cat {shlex.quote(str(key_file.absolute()))})" '
    )
    model = shlex.quote(f"base_url={url},model={name}")
    return (
        f"{key}lmms-eval --model async_openai --model_args {model} "
        f"--tasks {LMMS_EVAL_TASKS} --log_samples --output_path evaluated-by-lmms"
    )


def _long_form(option: str) -> str:
    flag, equals, value = option.partition("=")
    return _SHORT_FLAGS.get(flag, flag) + equals + value


if __name__ == "__main__":
    main()
