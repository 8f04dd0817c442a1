"""Imported once by the server that test processes are forked from: it takes seconds."""

from tensorboard.compat.proto import event_pb2  # noqa: F401
from transformers import (  # noqa: F401
    AutoModelForImageTextToText,
    AutoProcessor,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
)

import broker.service.server  # noqa: F401
import common.torchvision_compat  # noqa: F401  (must come before transformers)
import tests.learner.scripted_rollout  # noqa: F401
