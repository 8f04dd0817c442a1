"""The yardstick: the engine driven flat out by a plain closed-loop HTTP client."""

import asyncio
import json
import secrets
import time
from collections.abc import Iterator
from typing import Any

import aiohttp
import uvloop

from rollout.engine import GroupRequest
from rollout.http_engine import generate_body


def drive_alone(pipe: Any, requests: list[GroupRequest], concurrent: int, url: str) -> None:
    """Says "ready", waits for a word, sends everything; says how many tokens came, and CPU s."""
    part = secrets.token_hex(4)  # of the prefix cache: nothing that others have left is of use
    bodies = [json.dumps(generate_body(request, part)).encode() for request in requests]
    pipe.send("ready")
    pipe.recv()
    cpu_s = time.process_time()
    num_tokens = uvloop.run(_all(bodies, concurrent, url))
    pipe.send((num_tokens, time.process_time() - cpu_s))


async def _all(bodies: list[bytes], concurrent: int, url: str) -> int:
    """Send as many requests at once as our rollout has groups."""
    left = iter(bodies)
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), headers={"Content-Type": "application/json"}
    ) as session:
        loops = (_one_after_the_other(session, left, url) for _ in range(concurrent))
        return sum(await asyncio.gather(*loops))


async def _one_after_the_other(
    session: aiohttp.ClientSession, left: Iterator[bytes], url: str
) -> int:
    num_tokens = 0
    for body in left:
        async with session.post(f"{url}/generate", data=body) as response:
            content = await response.read()
        assert response.status == 200, content[:500]
        answer = json.loads(content)
        results = answer if isinstance(answer, list) else [answer]
        num_tokens += sum(len(result["output_ids"]) for result in results)
    return num_tokens
