"""What is generated: the quickstart's samples, with answers that all have full length."""

from pathlib import Path
from typing import Any

from common.config import RunConfig
from common.config_cli import build
from common.dataset import read_samples
from common.images import ImageStore
from common.rendering import Renderer
from common.views.settings import ViewSettings
from deploy.quickstart.dataset import DatasetParameters, write_dataset
from rollout.engine import GroupRequest
from rollout.engine_views import EngineViews


def write_samples(folder: Path, count: int) -> Path:
    """One for each group."""
    write_dataset(folder, DatasetParameters(num_train=count, num_heldout=1, seed=0))
    return folder / "train.parquet"


def config_of(
    engine: str, model: Path, train: Path, groups: int, concurrent: int, n: int, tokens: int
) -> RunConfig:
    """All groups are one step, so that nothing but the engine's slots limits their admission."""
    return build(
        {
            "model": {"path": str(model), "dtype": "float32"},
            "data": {"train": str(train)},
            "broker": {"address": "tcp://127.0.0.1:0", "lease_s": 600.0},
            "rollout": {
                "engine": engine,
                "threads": 1,
                "trajectories_per_sample": n,
                "max_response_tokens": tokens,
                "max_concurrent_groups": concurrent,
            },
            "learner": {"groups_per_step": groups},
            "weights": {"dtype": "float32", "backend": "gloo", "timeout_s": 60.0},
        }
    )


class FullLength:
    """A renderer that also bans the token that ends a response: equal work for everybody."""

    def __init__(self, model_path: str) -> None:
        self._renderer = Renderer(model_path)
        self.vision_token_ids = [
            *self._renderer.vision_token_ids,
            self._renderer.tokenizer.eos_token_id,
        ]
        self.end_token_ids = self._renderer.end_token_ids
        self.engine_image = self._renderer.engine_image

    def prompt_token_ids(self, problem: str) -> Any:
        return self._renderer.prompt_token_ids(problem)


def requests_of(config: RunConfig) -> list[GroupRequest]:
    """Requests as the rollout worker makes them, one for each sample."""
    assert config.data.train is not None
    renderer = FullLength(config.model.path)
    images = ImageStore(config.data.train.parent)
    views = EngineViews(renderer, ViewSettings.of(config))
    return [
        GroupRequest(
            prompt_token_ids=renderer.prompt_token_ids(sample.problem),
            images=(views.make(sample, "full", 0, images.read_bytes(sample.image)).image,),
            num_trajectories=config.rollout.trajectories_per_sample,
            temperature=config.rollout.temperature,
            top_p=config.rollout.top_p,
            top_k=config.rollout.top_k,
            max_response_tokens=config.rollout.max_response_tokens,
            banned_token_ids=tuple(renderer.vision_token_ids),
            end_token_ids=tuple(renderer.end_token_ids),
            seed=None,
        )
        for sample in read_samples(config.data.train)[0]
    ]
