"""Fixtures that several pipeline tests share."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.pipeline.support import GROUPS, STEPS
from tests.tiny_model import make_tiny_checkpoint
from tests.tiny_world import make_dataset


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_checkpoint(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data"), STEPS * GROUPS)


@pytest.fixture
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
