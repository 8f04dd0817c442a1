"""A job awaited from the event loop: to its end, or step by step. A cancellation aborts it."""

import asyncio
from collections.abc import AsyncGenerator

from rollout.embedded.job import Job
from rollout.embedded.scheduler import Scheduler


async def finished(scheduler: Scheduler, job: Job) -> None:
    """Submit a job and return when it is done. A cancellation aborts it."""
    scheduler.submit(job)
    try:
        await asyncio.shield(asyncio.wrap_future(job.done))
    except asyncio.CancelledError:  # the client went away
        abort(scheduler, job)
        raise


async def steps(scheduler: Scheduler, job: Job) -> AsyncGenerator[None, None]:
    """Submit a job and yield whenever there are more tokens, the last time when it is done.

    Use it in contextlib.aclosing: a job that is left before its end is aborted.
    """
    loop, more = asyncio.get_running_loop(), asyncio.Event()

    def wake(_: object = None) -> None:  # on the compute thread
        loop.call_soon_threadsafe(more.set)

    job.after_step.append(wake)
    job.done.add_done_callback(wake)
    scheduler.submit(job)
    try:
        is_done = False
        while not is_done:
            await more.wait()
            more.clear()
            is_done = job.done.done()
            if is_done:
                job.done.result()
            yield
    finally:
        abort(scheduler, job)


def abort(scheduler: Scheduler, job: Job) -> None:
    """End a job that no client waits for any more; one that is done stays as it is."""
    if not job.done.done():
        scheduler.abort(lambda other: other is job)
