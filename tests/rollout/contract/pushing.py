"""A trainer's steps of a weight push, for the contract tests."""

import asyncio
import itertools

from common.served_names import pushed_name
from tests.rollout.trainer import Trainer, chunks, flat, manifest

DISTRIBUTED = "/update_weights_from_distributed"


_numbers = itertools.count()


async def joined(api, name: str) -> Trainer:
    trainer = Trainer(f"{name}-{next(_numbers)}")  # torch refuses a name that it has seen before
    await asyncio.gather(
        api.ok("/init_weights_update_group", trainer.init_body), asyncio.to_thread(trainer.join)
    )
    return trainer


async def left(api, trainer: Trainer) -> None:
    await asyncio.gather(
        api.ok("/destroy_weights_update_group", {"group_name": trainer.name}),
        asyncio.to_thread(trainer.leave),
    )


async def push(api, trainer: Trainer, state, *, version: str, buckets: int = 1, flush: bool = True):
    """One session; the status and body of the last bucket."""
    await api.ok("/begin_weight_update", {})
    parts = chunks(state, buckets)
    for number, part in enumerate(parts):
        body = {
            **manifest(part), "group_name": trainer.name, "load_format": "flattened_bucket",
            "flush_cache": False,
        }  # fmt: skip
        if number == len(parts) - 1:
            body.update(flush_cache=flush, weight_version=version)
        answer, _ = await asyncio.gather(
            api.post(DISTRIBUTED, body), asyncio.to_thread(trainer.send, [flat(part.values())])
        )
        assert answer[0] == 200 or number == len(parts) - 1, answer
    await api.ok("/end_weight_update", {})
    return answer


async def pushed(api, state, *, version: str, mode: str = "retract", buckets: int = 1) -> None:
    """A whole push by a trainer of its own."""
    state = {pushed_name(name): tensor for name, tensor in state.items()}
    trainer = await joined(api, "push")
    await api.ok("/pause_generation", {"mode": mode})
    status, answer = await push(api, trainer, state, version=version, buckets=buckets)
    assert status == 200, answer
    await api.ok("/continue_generation", {})
    await left(api, trainer)


async def checksums(api) -> dict[str, str]:
    answer = await api.ok("/weights_checker", {"action": "checksum"})
    return answer["ranks"][0]["checksums"]
