"""A process that renders views for the learner: python -m learner.views.worker DESCRIPTOR

It speaks over the inherited socket DESCRIPTOR: setup in, READY out, then a request in and its view
out, until the socket ends. It ends with it, and so with its parent, however that one dies.
Signals to the process group are the learner's affair: it alone decides when to stop.

A message is a line of JSON, then arrays in NumPy's own format, which needs no pickle.
"""

import json
import os
import signal
import socket
import sys
from collections.abc import Iterable, Sequence
from io import BufferedRWPair
from pathlib import Path

import numpy as np
from numpy.lib.format import read_array, write_array

from common.config import PromptSection
from common.errors import DataError
from common.images import ImageStore
from common.rendering import RenderedPrompt, Renderer
from common.types import Record
from common.views.settings import ViewSettings
from learner.views.renderer import ViewRenderer, ViewRequest

HANDLED = frozenset({signal.SIGINT, signal.SIGTERM})
READY = "ready"
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
    try:
        serve(socket.socket(fileno=int(sys.argv[1])).makefile("rwb"))
    except (EOFError, ConnectionError):
        os._exit(0)  # at once: there is nothing to put away


def ignore_signals(numbers: Iterable[int]) -> None:
    """Ignore signals that were blocked when this process began (see `learner.views.pool`)."""
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)


def serve(link: BufferedRWPair) -> None:
    """Answer requests until the socket ends, which raises EOFError or ConnectionError."""
    setup = WorkerSetup.model_validate_json(receive(link)[0])
    images = ImageStore(Path(setup.images), _PICTURE_BYTES)
    renderer = Renderer(setup.model_path, setup.prompt)
    views = ViewRenderer(renderer, images, setup.views, setup.contrast_pixels)
    send(link, READY)
    while True:
        request = ViewRequest.model_validate_json(receive(link)[0])
        send_view(link, views.render([request])[0])


def send_view(link: BufferedRWPair, view: RenderedPrompt | DataError) -> None:
    if isinstance(view, DataError):
        send(link, str(view))
    else:
        arrays = (view.input_ids, view.mm_token_type_ids, view.pixels, view.image_grid_thw)
        send(link, view.sha256, arrays)


def receive_view(link: BufferedRWPair) -> RenderedPrompt | DataError:
    """The other side of `send_view`."""
    text, arrays = receive(link)
    if not arrays:
        return DataError(text)
    ids, types, pixels, grid = arrays
    return RenderedPrompt(ids, types, pixels, grid, sha256=text)


def send(link: BufferedRWPair, text: str, arrays: Sequence[np.ndarray] = ()) -> None:
    """Send one message; OSError if the socket does not take it."""
    link.write(json.dumps([text, len(arrays)]).encode() + b"\n")
    for array in arrays:
        write_array(link, array, allow_pickle=False)
    link.flush()


def receive(link: BufferedRWPair) -> tuple[str, list[np.ndarray]]:
    """The next message; waits for it.

    Raises:
        EOFError: the other side has ended; ValueError: in the middle of a message.
        OSError: of the socket; TimeoutError, if it has a limit.
    """
    line = link.readline()
    if not line:
        raise EOFError("the other side has ended")
    text, count = json.loads(line)
    return text, [read_array(link, allow_pickle=False) for _ in range(count)]


if __name__ == "__main__":
    main()
