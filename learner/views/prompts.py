"""The views of samples as model inputs, rendered once and kept as long as there is room.

students / teachers / contrasts -----> cache --- miss ---> pool, or this thread without one
                                         ^                  |
look_ahead --> pending --> pool ---------'------------------'
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial

import torch
from PIL import Image
from torch import Tensor

from common.dataset import Answers
from common.errors import DataError
from common.images import ImageStore
from common.rendering import RenderedPrompt, Renderer
from common.types import Sample
from common.views.registry import view_named
from common.views.settings import ViewSettings
from common.views.showing import seed_for
from learner.views.cache import ViewCache
from learner.views.inputs import PromptView, view_of
from learner.views.pool import RenderPool, View, WorkerLost
from learner.views.renderer import ViewKey, ViewRenderer, ViewRequest

logger = logging.getLogger(__name__)
CACHE_BYTES = 2**30
MAX_KNOWN_POSITIONS = 1024
VIEW_WAIT_S = 60.0  # for one view that the pool has; then this thread renders it
PromptPositions = Callable[[Tensor, Tensor, Tensor], Tensor]  # ids, types, grid -> [3, P]
Found = PromptView | DataError  # an error for a sample that cannot be rendered
_Arrival = Future[Found | None]  # None means that the pool could not


class PromptViews:
    """The rendered views of samples. One thread at a time may ask for them, any for `look_ahead`.

    A sample that cannot be rendered gives a DataError in its place, not an exception.

    Args:
        settings: what student and teacher see.
        positions: the model's rotary positions of one prompt.
        cache_bytes: bytes of rendered views that are kept or were rendered ahead.
        answers: LABELS, for the teacher's view that shows them (teacher.view = "answer_hint")
            and used nowhere else; the method proper needs none.
        contrast_pixels: side of the squares of the contrast view; None means no such view.
        pool: renders in other processes; this object does not own it.
    """

    def __init__(
        self,
        renderer: Renderer,
        images: ImageStore,
        settings: ViewSettings,
        positions: PromptPositions,
        cache_bytes: int = CACHE_BYTES,
        *,
        answers: Answers | None = None,
        contrast_pixels: int | None = None,
        pool: RenderPool | None = None,
        wait_s: float = VIEW_WAIT_S,
    ) -> None:
        self.has_contrast = contrast_pixels is not None
        self._renderer = ViewRenderer(renderer, images, settings, contrast_pixels)
        self._patching = renderer.patching
        self._student_view = view_named(settings.student)
        self._teacher_view = view_named(settings.teacher)
        self._positions = positions
        self._answers = Answers() if answers is None else answers
        self._pool = pool
        self._wait_s = wait_s
        self._lock = threading.Lock()  # of everything below: the pool's threads come in too
        self._known_positions: dict[bytes, Tensor] = {}
        self._cache = ViewCache(cache_bytes)
        self._in_flight: dict[ViewKey, _Arrival] = {}
        self._pending: deque[ViewRequest] = deque()  # to be rendered ahead

    def students(
        self, samples: Sequence[Sample], seeds: Sequence[int] | None = None
    ) -> list[Found]:
        """What the rollout servers were shown, if they draw by the same seeds.

        Args:
            seeds: None means 0 each, for views that draw nothing.
        """
        pairs = zip(samples, seeds or [0] * len(samples), strict=True)
        return self._views([self._student_request(*pair) for pair in pairs])

    def teachers(self, samples: Sequence[Sample], seeds: Sequence[int]) -> list[Found]:
        pairs = zip(samples, seeds, strict=True)
        return self._views([self._teacher_request("teacher", *pair) for pair in pairs])

    def contrasts(self, samples: Sequence[Sample], seeds: Sequence[int]) -> list[Found]:
        """The teacher's views with the picture pixelated: as many tokens, the same question.

        Raises:
            ValueError: this object was made without `contrast_pixels`.
        """
        if not self.has_contrast:
            raise ValueError("no contrast view without contrast_pixels. Fix: give PromptViews some")
        pairs = zip(samples, seeds, strict=True)
        return self._views([self._teacher_request("contrast", *pair) for pair in pairs])

    def teacher_picture(self, sample: Sample, seed: int) -> Image.Image:
        """The picture that the teacher is shown; DataError if there is no evidence to show."""
        return self._renderer.teacher_picture(sample, seed)

    def look_ahead(self, samples: Sequence[Sample], seeds: Sequence[int]) -> None:
        """Have the views of these samples rendered that are not at hand, the first ones first.

        Returns at once. It replaces what an earlier call asked for. No more is rendered ahead than
        the cache holds; the rest follows as views are taken. Without a living pool it does nothing.
        """
        if self._pool is None or not self._pool.is_alive:
            return
        requests = [
            request
            for sample, seed in zip(samples, seeds, strict=True)
            for request in self._requests(sample, seed)
            if isinstance(request, ViewRequest)
        ]
        with self._lock:
            self._cache.expect(request.key for request in requests)
            self._pending = deque(requests)
            begun = self._begin_pending()
        self._send(begun)

    # ---- requests --------------------------------------------------------------------------------
    def _requests(self, sample: Sample, seed: int) -> list[ViewRequest | DataError]:
        """All views of a sample that a step needs."""
        kinds = ("teacher", "contrast") if self.has_contrast else ("teacher",)
        teachers = [self._teacher_request(kind, sample, seed) for kind in kinds]
        return [self._student_request(sample, seed), *teachers]

    def _student_request(self, sample: Sample, seed: int) -> ViewRequest:
        return ViewRequest(kind="student", sample=sample, seed=seed_for(self._student_view, seed))

    def _teacher_request(self, kind: str, sample: Sample, seed: int) -> ViewRequest | DataError:
        try:
            answer = self._answers.of(sample) if self._teacher_view.shows_answer else None
        except DataError as error:
            return error
        used = seed_for(self._teacher_view, seed)
        return ViewRequest.model_validate(
            {"kind": kind, "sample": sample, "seed": used, "answer": answer}
        )

    def _views(self, requests: Sequence[ViewRequest | DataError]) -> list[Found]:
        wanted = {request.key: request for request in requests if isinstance(request, ViewRequest)}
        found: dict[ViewKey, Found] = {}
        with self._lock:
            for key in wanted:
                if (view := self._cache.take(key)) is not None:
                    found[key] = view
            missing = [request for key, request in wanted.items() if key not in found]
            arrivals, begun = self._order(missing)
        self._send(begun)
        found |= self._wait_for(arrivals)
        found |= self._render_here([request for request in missing if request.key not in found])
        with self._lock:
            begun = self._begin_pending()  # there may be room again
        self._send(begun)
        return [r if isinstance(r, DataError) else found[r.key] for r in requests]

    def _render_here(self, requests: Sequence[ViewRequest]) -> dict[ViewKey, Found]:
        found: dict[ViewKey, Found] = {}
        for request, prompt in zip(requests, self._renderer.render(requests), strict=True):
            with self._lock:
                found[request.key] = self._keep(request.key, prompt)
        return found

    # ---- the pool: `_order`, `_begin_pending`, `_begin` and `_keep` need the lock ----------------
    def _order(
        self, requests: Sequence[ViewRequest]
    ) -> tuple[dict[ViewKey, _Arrival], list[ViewRequest]]:
        """What to wait for, and the part of it that is to be sent to the pool first."""
        if self._pool is None or not self._pool.is_alive:
            return {}, []
        begun = [request for request in requests if self._begin(request)]
        return {request.key: self._in_flight[request.key] for request in requests}, begun

    def _begin_pending(self) -> list[ViewRequest]:
        """The next requests to be sent ahead of need: a few, so that urgent ones wait for few."""
        begun: list[ViewRequest] = []
        if self._pool is None or not self._pool.is_alive:
            self._pending.clear()
        while (
            self._pool is not None
            and self._pending
            and len(self._in_flight) < 2 * self._pool.processes
            and self._cache.has_room_for(len(self._in_flight) + 1)
        ):
            request = self._pending.popleft()
            if request.key not in self._cache and self._begin(request):
                begun.append(request)
        return begun

    def _begin(self, request: ViewRequest) -> bool:
        """Whether it was not on its way already."""
        if request.key in self._in_flight:
            return False
        self._in_flight[request.key] = Future()
        return True

    def _send(self, requests: Sequence[ViewRequest]) -> None:
        """Send requests; without the lock: an ended pool answers at once, in this thread."""
        for request in requests:
            assert self._pool is not None
            self._pool.submit(request).add_done_callback(partial(self._arrive, request.key))

    def _arrive(self, key: ViewKey, rendered: Future[View]) -> None:
        """Keep what the pool has rendered. Called in a thread of the pool."""
        view: Found | None = None
        try:
            prompt = rendered.result()
            with self._lock:
                view = self._keep(key, prompt)
        except WorkerLost:
            logger.debug("%s view of %s: left to the thread that needs it", key[1], key[0])
        finally:  # whatever happened, no thread may wait for it any longer
            with self._lock:
                arrival = self._in_flight.pop(key)
                begun = self._begin_pending()
            arrival.set_result(view)
            self._send(begun)

    def _wait_for(self, arrivals: dict[ViewKey, _Arrival]) -> dict[ViewKey, Found]:
        """The views that the pool renders in time; once one is late, it waits for no other."""
        found: dict[ViewKey, Found] = {}
        patience_s = self._wait_s
        for key, arrival in arrivals.items():
            try:
                view = arrival.result(patience_s)
            except TimeoutError:
                if patience_s:
                    logger.warning("no view from the render processes within %.0f s", patience_s)
                patience_s = 0.0
                continue
            if view is not None:
                found[key] = view
        return found

    def _keep(self, key: ViewKey, prompt: View) -> Found:
        if isinstance(prompt, DataError):
            return prompt
        view = self._view(prompt)
        self._cache.put(key, view)
        return view

    def _view(self, prompt: RenderedPrompt) -> PromptView:
        ids, types, grid = map(
            torch.from_numpy, (prompt.input_ids, prompt.mm_token_type_ids, prompt.image_grid_thw)
        )
        key = prompt.mm_token_type_ids.tobytes() + prompt.image_grid_thw.tobytes()
        if key not in self._known_positions:  # they depend on nothing else
            if len(self._known_positions) >= MAX_KNOWN_POSITIONS:
                self._known_positions.clear()
            self._known_positions[key] = self._positions(ids, types, grid)
        return view_of(prompt, self._known_positions[key], self._patching)
