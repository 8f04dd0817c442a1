"""`python -m rollout.embedded --model-path FOLDER --port N`: a model behind SGLang's endpoints."""

import argparse
import asyncio
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from common.image_text_model import ImageTextModel

logger = logging.getLogger(__name__)


def main() -> None:
    arguments = parse_arguments()
    from common.config_cli import exit_with
    from common.errors import ConfigError
    from common.lifecycle import run, stop_with_parent
    from common.logs import configure_logging

    configure_logging("engine")
    if arguments.stop_with_parent:
        stop_with_parent()
    try:
        run(lambda stop: serve(arguments, stop))
    except ConfigError as error:
        exit_with(error)


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m rollout.embedded", description=__doc__)
    parser.add_argument("--model-path", required=True, help="Hugging Face folder")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=30000, help="port to listen on")
    parser.add_argument(
        "--api-key-file",
        help="file with the key that every request must carry ($VISION_OPD_API_KEY_FILE)",
    )
    parser.add_argument(
        "--without-key", action="store_true", help="obey everybody on this machine (loopback only)"
    )
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--weight-version", default="default", help="name of the first weights")
    parser.add_argument(
        "--deterministic", action="store_true", help="compute each request in a batch of its own"
    )
    parser.add_argument("--threads", type=int, default=None, help="CPU threads of the model")
    parser.add_argument(
        "--update-timeout-s", type=float, default=60.0, help="seconds for a join or a broadcast"
    )
    parser.add_argument("--served-model-name", help="of /v1/models; none: --model-path")
    parser.add_argument("--chat-template", help="Jinja file in place of the checkpoint's own")
    parser.add_argument(
        "--thinking", action="store_true", help="chat lets the model think before it answers"
    )
    parser.add_argument(
        "--no-commands", action="store_true", help="only generate and chat: no pause, no weights"
    )
    parser.add_argument(
        "--stop-with-parent", action="store_true", help="end when the parent process has died"
    )
    return parser.parse_args(argv)


async def serve(arguments: argparse.Namespace, stop: asyncio.Event) -> None:
    from aiohttp import web

    from common.addresses import join_address
    from common.config import PromptSection
    from common.engines.keys import key_given_by_hand
    from common.errors import ConfigError
    from common.http_gate import Gate
    from rollout.embedded.chat import ChatServer
    from rollout.embedded.chat_requests import sampling_defaults
    from rollout.embedded.chat_template import ChatTemplate
    from rollout.embedded.scheduler import Scheduler
    from rollout.embedded.server import EngineServer
    from rollout.embedded.update_session import UpdateSession

    key = key_given_by_hand(arguments.api_key_file, arguments.host, arguments.without_key)
    model = load_model(arguments.model_path, arguments.dtype, arguments.threads)
    prompts, vocabulary = _prompts_and_vocabulary(arguments.model_path, model)
    scheduler = Scheduler(
        model,
        one_job_a_batch=arguments.deterministic,
        version=arguments.weight_version,
        threads=arguments.threads,
    )
    own_template = arguments.chat_template and Path(arguments.chat_template)
    prompt = PromptSection(thinking=arguments.thinking, chat_template=own_template)
    chat = ChatServer(
        model_name=arguments.served_model_name or arguments.model_path,
        scheduler=scheduler,
        prompts=prompts,
        template=ChatTemplate(prompts.processor, prompt),
        vocabulary=vocabulary,
        defaults=sampling_defaults(model.generation_config),
    )
    server = EngineServer(
        model_path=arguments.model_path,
        scheduler=scheduler,
        prompts=prompts,
        updates=UpdateSession(model, scheduler, arguments.update_timeout_s),
        vocabulary=vocabulary,
        chat=chat,
        facts={"version": "embedded", "model_type": model.config.model_type, **vars(arguments)},
    )
    runner = web.AppRunner(
        server.application(Gate(arguments.host, key), takes_commands=not arguments.no_commands),
        handler_cancellation=True,
        access_log=None,
        shutdown_timeout=1.0,
    )
    await runner.setup()
    scheduler.start()
    try:
        address = join_address(arguments.host, arguments.port)
        try:
            await web.TCPSite(runner, arguments.host, arguments.port).start()
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise ConfigError(f"{address}: {reason}. Fix: another --host or --port") from None
        logger.info("serving %s on %s", arguments.model_path, address)
        await stop.wait()
    finally:
        scheduler.close()
        await runner.cleanup()


def load_model(model_path: str, dtype: str, threads: int | None) -> "ImageTextModel":
    """The model in eval mode, without grad, in the dtypes that a server holds.

    Raises:
        ConfigError: its tensors are not all there, or not numbers.
    """
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    from common.model_loading import load_image_text_model
    from common.patch_embedding import multiply_patches
    from rollout.embedded.weights import take_served_dtypes

    model = load_image_text_model(model_path, "--model-path")
    take_served_dtypes(model, getattr(torch, dtype))
    multiply_patches(model)
    return model.eval().requires_grad_(False)


def _prompts_and_vocabulary(model_path: str, model: "ImageTextModel") -> tuple[Any, Any]:
    from common.end_tokens import end_token_ids_of
    from rollout.embedded.prompts import PromptBuilder
    from rollout.embedded.requests import VocabularyFacts

    image_token_id = getattr(model.config, "image_token_id", None)
    context_tokens = model.config.get_text_config().max_position_embeddings
    prompts = PromptBuilder(model_path, image_token_id, context_tokens)
    size = model.get_output_embeddings().weight.shape[0]
    return prompts, VocabularyFacts(size, frozenset(end_token_ids_of(model, prompts.tokenizer)))


if __name__ == "__main__":
    main()
