"""Weight updates as SGLang runs them: begin, buckets in order, end. Each answers (ok, message)."""

import asyncio
import logging
from typing import Any

import torch.distributed as dist

from common.image_text_model import ImageTextModel
from rollout.embedded.bucket_memory import bucket_in_model
from rollout.embedded.requests import BadRequest
from rollout.embedded.scheduler import Scheduler
from rollout.embedded.weights import (
    UpdateGroup,
    checksums,
    load_folder,
    load_tensors,
    parse_dtypes,
)

logger = logging.getLogger(__name__)
Outcome = tuple[bool, str]
Manifest = tuple[list[str], list[Any], list[list[int]]]  # names, torch dtypes, shapes
_OUTSIDE = (
    "update_weights_from_distributed must run between begin_weight_update() and end_weight_update()"
)
_NOT_FLUSHED = (
    "Weights were updated, but the cache was not flushed because requests are still running or "
    "queued. Retract or finish them, then call /flush_cache."
)


class UpdateSession:
    """The groups that weights come through, and the open session if there is one.

    Weights change on the scheduler's compute thread alone, one step at a time. Waiting for peers
    happens on another thread, with one exception: while the scheduler is paused, a flattened bucket
    is received straight into the model, on the compute thread, so that whatever else concerns the
    model (to resume, to load a folder, checksums) waits until the bucket is there.

    Args:
        timeout_s: limit for joining a group, and for one broadcast.
    """

    def __init__(self, model: ImageTextModel, scheduler: Scheduler, timeout_s: float) -> None:
        self._model = model
        self._scheduler = scheduler
        self._timeout_s = timeout_s
        self._groups: dict[str, UpdateGroup] = {}
        self._is_open = False
        self._one_step_at_a_time = asyncio.Lock()

    async def init_group(self, body: dict[str, Any]) -> Outcome:
        name = _field(body, "group_name", str, "weight_update_group")
        backend = _field(body, "backend", str, "nccl")
        if backend != "gloo":
            return False, f"Failed to initialize custom process group: no backend {backend!r} here"
        if name in self._groups:
            return False, f"Failed to initialize custom process group: {name!r} exists already"
        arguments = (
            _field(body, "master_address", str),
            _field(body, "master_port", int),
            _field(body, "rank_offset", int),
            _field(body, "world_size", int),
        )
        async with self._one_step_at_a_time:
            try:
                self._groups[name] = await asyncio.to_thread(
                    UpdateGroup, *arguments, name, backend, self._timeout_s
                )
            except (RuntimeError, ValueError, dist.DistError) as error:
                return False, f"Failed to initialize custom process group: {error}"
        return True, "Succeeded to initialize custom process group."

    async def destroy_group(self, body: dict[str, Any]) -> Outcome:
        name = _field(body, "group_name", str, "weight_update_group")
        async with self._one_step_at_a_time:
            group = self._groups.pop(name, None)
            if group is None:
                return False, f"The group to be destroyed does not exist: {name!r}"
            await asyncio.to_thread(group.close)
        return True, "Succeeded to destroy custom process group."

    async def begin(self, body: dict[str, Any]) -> Outcome:
        if self._is_open:
            return False, "a weight-update session is already open; call end_weight_update() first"
        await self._wait_for_running_jobs()
        self._is_open = True
        return True, "Success"

    async def end(self, body: dict[str, Any]) -> Outcome:
        if not self._is_open:
            return False, "no weight-update session is open; call begin_weight_update() first"
        self._is_open = False
        return True, "Success"

    async def receive(self, body: dict[str, Any]) -> Outcome:
        if not self._is_open:
            return False, _OUTSIDE
        group = self._groups.get(_field(body, "group_name", str, "weight_update_group"))
        if group is None:
            return False, "Failed to receive weights: this group was not initialized"
        load_format = body.get("load_format")
        if load_format not in (None, "flattened_bucket"):
            return False, f"Failed to receive weights: no load_format {load_format!r} here"
        take = group.receive_flat if load_format else group.receive
        async with self._one_step_at_a_time:
            try:
                manifest = _manifest(body)
                outcome = await self._receive_in_place(group, manifest, body)
                if outcome is not None:
                    return outcome
                tensors = await asyncio.to_thread(take, *manifest)
            except (RuntimeError, ValueError) as error:
                return False, f"Failed to receive weights: {error}"
            return await self._apply(body, lambda: load_tensors(self._model, tensors))

    async def _receive_in_place(
        self, group: UpdateGroup, manifest: Manifest, body: dict[str, Any]
    ) -> Outcome | None:
        """Receive a flattened bucket into the model's own memory, without a copy.

        A broadcast that fails half-way leaves new weights beside old ones under the old version's
        name. The engine is then still paused, and a client must not resume it until a later push
        has succeeded; rollout/weights.py sees to that.

        Returns:
            None, with nothing received and no weight changed, where the ordinary way has to be
            taken: the scheduler is not paused, or the bucket does not fit the model's memory (an
            unknown name is passed over there, another shape refused, another dtype converted).

        Raises:
            RuntimeError: the broadcast failed.
        """
        is_flat = body.get("load_format") == "flattened_bucket"
        # Jobs are aborted when the weights are there: here that would take the thread that waits.
        if not is_flat or body.get("abort_all_requests") or not self._scheduler.is_paused:
            return None

        def receive() -> Outcome | None:
            if not self._scheduler.is_paused:  # resumed before this command had its turn
                return None
            bucket = bucket_in_model(self._model, *manifest)
            if bucket is None:
                return None
            group.receive_into(bucket)
            return self._name_and_flush(body)

        outcome: Outcome | None = await asyncio.wrap_future(self._scheduler.run(receive))
        return outcome

    async def load_folder(self, body: dict[str, Any]) -> Outcome:
        folder = _field(body, "model_path", str)
        if not self._scheduler.is_paused:
            await self._wait_for_running_jobs()
        return await self._apply(body, lambda: load_folder(self._model, folder))

    async def set_version(self, version: str) -> None:
        def assign() -> None:
            self._scheduler.version = version

        await asyncio.wrap_future(self._scheduler.run(assign))

    async def checksums(self) -> dict[str, str]:
        """Checksums of every tensor that is served, by SGLang's name."""
        found: dict[str, str] = await asyncio.wrap_future(
            self._scheduler.run(lambda: checksums(self._model))
        )
        return found

    async def _apply(self, body: dict[str, Any], load: Any) -> Outcome:
        """Load, name and flush in one go between two token steps."""

        def apply() -> Outcome:
            load()
            return self._name_and_flush(body)

        if body.get("abort_all_requests"):
            await asyncio.wrap_future(self._scheduler.abort(lambda job: True))
        try:
            outcome: Outcome = await asyncio.wrap_future(self._scheduler.run(apply))
        except (ValueError, OSError, RuntimeError) as error:
            return False, f"Failed to update weights: {error}"
        return outcome

    def _name_and_flush(self, body: dict[str, Any]) -> Outcome:
        """Name new weights and flush the cache. Compute thread only."""
        version = body.get("weight_version")
        if version is not None:
            self._scheduler.version = str(version)
        if body.get("flush_cache", True) and not self._scheduler.can_flush:
            return False, _NOT_FLUSHED
        return True, "Succeeded to update model weights."

    async def _wait_for_running_jobs(self) -> None:
        """Wait, outside a pause, for requests that are under way, as SGLang does."""
        if not self._scheduler.is_paused:
            jobs = [asyncio.wrap_future(job) for job in self._scheduler.unfinished_jobs()]
            await asyncio.gather(*jobs, return_exceptions=True)


def _manifest(body: dict[str, Any]) -> Manifest:
    names, shapes = body.get("names"), body.get("shapes")
    dtypes = body.get("dtypes")
    for value in (names, dtypes, shapes):
        if not isinstance(value, list):
            raise BadRequest("names, dtypes and shapes should be lists")
    assert isinstance(names, list) and isinstance(dtypes, list) and isinstance(shapes, list)
    if not len(names) == len(dtypes) == len(shapes):
        raise BadRequest(f"{len(names)} names, {len(dtypes)} dtypes and {len(shapes)} shapes")
    try:
        return names, parse_dtypes(dtypes), [list(map(int, shape)) for shape in shapes]
    except (ValueError, TypeError, AttributeError) as error:
        raise BadRequest(str(error)) from error


def _field(body: dict[str, Any], key: str, kind: type, default: Any = None) -> Any:
    value = body.get(key, default)
    if not isinstance(value, kind):
        raise BadRequest(f"{key} should be {kind.__name__}, got {value!r}")
    return value
