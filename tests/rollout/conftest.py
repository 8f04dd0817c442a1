"""Checkpoints that the rollout tests share."""

import contextlib
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from common.rendering import Renderer
from tests.rollout.support import load_model, run_config, running_server
from tests.tiny_model import make_tiny_checkpoint

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    return make_tiny_checkpoint(tmp_path_factory.mktemp("model") / "first", seed=0)


@pytest.fixture(scope="session")
def other_checkpoint(tmp_path_factory) -> Path:
    """The same architecture with other weights."""
    return make_tiny_checkpoint(tmp_path_factory.mktemp("model") / "other", seed=1)


@pytest.fixture(scope="session")
def renderer(checkpoint) -> Renderer:
    return Renderer(str(checkpoint))


@pytest.fixture(scope="session")
def model(checkpoint):
    return load_model(checkpoint)


@pytest.fixture(scope="session")
def other_model(other_checkpoint):
    return load_model(other_checkpoint)


@pytest.fixture(scope="session")
def embedded_url(checkpoint, tmp_path_factory) -> Iterator[str]:
    """A server process with the embedded engine."""
    log = tmp_path_factory.mktemp("engine") / "engine.log"
    with running_server(run_config(checkpoint), log) as url:
        yield url


@pytest.fixture(scope="session")
def second_url(checkpoint, tmp_path_factory) -> Iterator[str]:
    """Another such server."""
    log = tmp_path_factory.mktemp("engine") / "engine.log"
    with running_server(run_config(checkpoint), log) as url:
        yield url


@pytest.fixture
def engine(embedded_url):
    """The server's URL; afterwards it is not paused and no session is open."""
    yield embedded_url
    for path in ("/end_weight_update", "/continue_generation"):
        request = urllib.request.Request(embedded_url + path, data=b"{}")
        with contextlib.suppress(urllib.error.HTTPError):
            urllib.request.urlopen(request, timeout=10).close()
