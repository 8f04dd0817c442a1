"""A process that renders views for the learner: python -m learner.views.worker DESCRIPTOR

It speaks over the inherited socket DESCRIPTOR: setup in, "ready" out, then a request in and its
view out, until the socket ends. It ends with it, and so with its parent, however that one dies.
Signals to the process group are the learner's affair: it alone decides when to stop.
"""

import os
import signal
import socket
import sys
from collections.abc import Iterable
from pathlib import Path

from common.config import PromptSection
from common.errors import DataError
from common.images import ImageStore
from common.rendering import RenderedPrompt, Renderer
from common.types import Record
from common.views.settings import ViewSettings
from learner.views.array_link import ArrayLink, LinkClosed
from learner.views.renderer import ViewRenderer, ViewRequest

HANDLED = frozenset({signal.SIGINT, signal.SIGTERM})
READY = "ready"
_ARRAYS = 4  # of a view
_PICTURE_BYTES = 64 * 2**20  # of decoded pictures kept: a sample's views may come one by one


class WorkerSetup(Record):
    """What a worker needs to render as the learner does."""

    model_path: str  # Hugging Face folder with tokenizer and processor
    prompt: PromptSection
    images: str  # folder that image paths are relative to
    views: ViewSettings
    contrast_pixels: int | None


def main() -> None:
    ignore_signals(HANDLED)
    link = ArrayLink(socket.socket(fileno=int(sys.argv[1])))
    try:
        serve(link)
    except LinkClosed:
        os._exit(0)  # at once: there is nothing to put away


def ignore_signals(numbers: Iterable[int]) -> None:
    """They were blocked when this process began (see `learner.views.pool`)."""
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)


def serve(link: ArrayLink) -> None:
    """Answer requests until the link closes, which raises LinkClosed."""
    setup = WorkerSetup.model_validate_json(link.receive()[0])
    images = ImageStore(Path(setup.images), _PICTURE_BYTES)
    renderer = Renderer(setup.model_path, setup.prompt)
    views = ViewRenderer(renderer, images, setup.views, setup.contrast_pixels)
    link.send(READY)
    while True:
        request = ViewRequest.model_validate_json(link.receive()[0])
        send_view(link, views.render([request])[0])


def send_view(link: ArrayLink, view: RenderedPrompt | DataError) -> None:
    if isinstance(view, DataError):
        link.send(str(view))
        return
    link.send(
        view.sha256,
        (view.input_ids, view.mm_token_type_ids, view.pixels, view.image_grid_thw),
    )


def receive_view(link: ArrayLink) -> RenderedPrompt | DataError:
    """The other side of `send_view`."""
    text, arrays = link.receive()
    if not arrays:
        return DataError(text)
    if len(arrays) != _ARRAYS:
        raise LinkClosed(f"a view of {len(arrays)} arrays")
    ids, types, pixels, grid = arrays
    return RenderedPrompt(ids, types, pixels, grid, sha256=text)


if __name__ == "__main__":
    main()
