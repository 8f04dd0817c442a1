"""The model that is asked: behind an endpoint, or a checkpoint that is served meanwhile."""

import argparse
import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

from common.engines.keys import read_key
from common.errors import ConfigError, EngineError
from common.files import sha256_of_file
from rollout.evaluation.endpoint import ChatClient, EndpointFailed, ItemRefused, base_url
from rollout.evaluation.settings import Target
from rollout.serving_checkpoint import served_checkpoint


@contextlib.asynccontextmanager
async def asked_target(
    options: argparse.Namespace, further: Sequence[str], stop: asyncio.Event
) -> AsyncIterator[Target | None]:
    """The model that the options name, ready to be asked; a server of ours ends with the block.

    None means that `stop` came while it started.

    Args:
        further: options of the server, as of a run.

    Raises:
        ConfigError: it cannot be asked so.
        EngineError: it does not answer.
    """
    if options.endpoint is not None:
        key = (
            None
            if options.api_key_file is None
            else read_key(options.api_key_file, "--api-key-file")
        )
        url = base_url(options.endpoint)
        yield await described(Target(url, options.model or "", key))
        return
    weights = await asyncio.to_thread(weights_digest, options.checkpoint)
    thinking = ["--prompt.thinking", str(bool(options.thinking)).lower()]
    async with served_checkpoint(
        options.checkpoint, options.engine, options=[*thinking, *further], stop=stop
    ) as served:
        target = Target(served.url, served.model, served.key, weights)
        yield None if stop.is_set() else await described(target)


async def described(target: Target) -> Target:
    """Complete a target with its context, and its name if missing, as the server tells them.

    Raises:
        ConfigError: it serves several models, or does not let us in.
        EngineError: it does not answer.
    """
    async with ChatClient(target.url, target.key) as client:
        try:
            models = await client.models()
        except ItemRefused as error:
            if error.is_of_the_key:
                raise ConfigError(f"{error}. Fix: --api-key-file FILE with its key") from error
            models = {}
        except EndpointFailed as error:
            raise EngineError(f"{error}. Fix: start the server, or name another one") from error
    model = target.model or _only(models)
    return replace(target, model=model, context_tokens=models.get(model))


def weights_digest(folder: Path) -> str:
    """SHA-256 of a checkpoint's weights: of its files' digests, by name.

    Raises:
        ConfigError: they cannot be read.
    """
    digest = hashlib.sha256()
    try:
        for path in sorted(folder.glob("*.safetensors")):
            digest.update(f"{path.name} {sha256_of_file(path)}\n".encode())
    except OSError as error:
        raise ConfigError(f"--checkpoint {folder}: {error}. Fix: see to the files") from error
    return digest.hexdigest()


def _only(models: dict[str, int | None]) -> str:
    if len(models) == 1:
        return next(iter(models))
    served = ", ".join(models) or "it does not say which"
    raise ConfigError(f"the endpoint serves several models: {served}. Fix: --model NAME")
