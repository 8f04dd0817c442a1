"""The learner of a run, built from its configuration; built again after each roll-back."""

import functools
import gc
import logging
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch

from common.config import RunConfig
from common.dataset import read_columns
from common.image_text_model import ImageTextModel
from common.kernels import Kernels
from common.rendering import Renderer
from common.training_data import foreseen_source
from learner.checkpoint import discard_after, find_checkpoint, restore
from learner.feed import Feed
from learner.figures.metrics import MetricsLog
from learner.figures.trackers import open_trackers
from learner.figures.trained import TrainedLog, keep_tokenizer
from learner.health.monitor import HealthMonitor, RollBack
from learner.loading import load_models
from learner.measuring.heldout import Heldout
from learner.model.student import choose_device, prompt_positions
from learner.progress import Progress
from learner.push.buckets import snapshot_of
from learner.push.expectations import Expectations, ordinary_tokens, probe_view
from learner.push.follower import Follower
from learner.push.probe_pictures import drawing
from learner.push.publisher import Publisher
from learner.push.pushed_weights import PushedWeights
from learner.push.pusher import Pusher
from learner.push.weight_files import weight_folder
from learner.ranks import Ranks, init_ranks, rank_failures
from learner.saving import CommittingCheckpointer
from learner.session import Session
from learner.signals import Signals
from learner.start_check import start_check
from learner.trainer import Trainer
from learner.views.inputs import PreparedGroup
from learner.views.preparation import Preparation
from learner.views.prompts import PromptPositions
from learner.views.training import open_training_views, render_processes
from learner.views.upcoming import UpcomingSamples

logger = logging.getLogger(__name__)


@dataclass
class _Process:
    """The parts of a process that outlive a roll-back."""

    monitor: HealthMonitor
    signals: Signals
    began: float  # on time.monotonic's clock
    kernels: Kernels
    past_s: float | None = None  # seconds the run had lasted before; None until its log is open


def run(config: RunConfig, began: float) -> None:
    """Train as configured and write the run folder.

    Args:
        began: when the process started, on time.monotonic's clock.

    Raises:
        VisionOpdError: ConfigError, CheckpointError, BrokerUnavailable, WeightSyncError, RankError,
            HealthStop, or no batch in time.
    """
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    if config.learner.threads is not None:
        torch.set_num_threads(config.learner.threads)
    device = choose_device(config.learner.device)
    kernels = start_check(config, on_gpu=device.type == "cuda")
    logger.info("kernels: %s", kernels)
    ranks = init_ranks(
        config.learner.rank_timeout_s,
        device,
        needs_group=config.learner.offload,
        shard_ranks=config.learner.shard_ranks,
    )
    try:
        with rank_failures(ranks, "training"):
            monitor = HealthMonitor(config, ranks)
            process = _Process(monitor, Signals(monitor.resume), began, kernels)
            while (decision := _live(config, ranks, process)) is not None:
                _free_memory(device)
                _go_back(config, ranks, monitor, decision)
    finally:
        ranks.close()


def _live(config: RunConfig, ranks: Ranks, process: _Process) -> RollBack | None:
    """Run until the end, which returns None, or until a roll-back, which is returned."""
    try:
        _run_once(config, ranks, process)
    except RollBack as decision:
        return decision.with_traceback(None)  # whose frames hold the models
    return None


def _free_memory(device: torch.device) -> None:
    """Free the models before others are loaded: there is no room for both."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _go_back(config: RunConfig, ranks: Ranks, monitor: HealthMonitor, decision: RollBack) -> None:
    logger.warning("going back to step %d: %s", decision.step, "; ".join(decision.reasons))
    assert config.run.folder is not None
    if ranks.writes:
        discard_after(config.run.folder / "checkpoints", decision.step)
    monitor.goes_on_from(decision.step)
    ranks.meet()  # no rank looks for checkpoints before rank 0 has removed them


def _run_once(config: RunConfig, ranks: Ranks, process: _Process) -> None:
    """Run from the newest checkpoint to the end of the run, or to a roll-back."""
    assert config.run.folder is not None and config.data.train is not None  # main has checked
    torch.manual_seed(config.run.seed)
    checkpoint = find_checkpoint(config.run.folder / "checkpoints", config, ranks)
    step = 0 if checkpoint is None else checkpoint.version
    process.monitor.goes_on_from(step)
    model, teacher = load_models(config, ranks, step)
    renderer = Renderer(config.model.path, config.prompt)
    positions = functools.partial(prompt_positions, model)
    with ExitStack() as stack:
        processes = render_processes(config.learner, ranks.device)
        views = stack.enter_context(open_training_views(config, renderer, positions, processes))
        source = foreseen_source(config)
        preparation = Preparation(
            config,
            renderer,
            views,
            model.get_output_embeddings().weight.shape[0],
            {sample.sample_id: sample for sample in source.samples},
            UpcomingSamples(source, config.run.seed, config.learner.groups_per_step)
            if processes
            else None,
        )
        preparation.look_ahead(step)
        feed = Feed(
            config, config.broker.address, f"learner-{ranks.rank}", preparation, step,
            ranks=ranks, kernels=process.kernels,
        )  # fmt: skip
        process.signals.attach(feed)
        stack.callback(process.signals.detach)
        _enter_in_turn(stack, feed, ranks)
        metrics: MetricsLog | None = None
        if ranks.writes:
            columns = read_columns(config.data.train, config.data.keep_columns)
            metrics = MetricsLog(config.run.folder, step, lambda: feed.is_interrupted, columns)
            stack.callback(metrics.close)
            for tracker in open_trackers(config, step, lambda: feed.is_interrupted):
                metrics.add(tracker)
            keep_tokenizer(config.run.folder, renderer.tokenizer)
        trained = _trained_log(config, step, ranks)
        if trained is not None:
            stack.callback(trained.close)
        if process.past_s is None:
            process.past_s = metrics.time_s if metrics else 0.0
        trainer = Trainer(
            config,
            model,
            teacher,
            feed.welcome.total_steps,
            renderer.vision_token_ids,
            ranks,
            _filler(renderer, positions, model) if ranks.world_size > 1 else None,
            keeps_tokens=trained is not None,
        )
        trainer.optimizer.lr_factor = process.monitor.lr_factor
        if checkpoint is not None:
            restore(checkpoint, trainer)
            logger.info("going on from %s", checkpoint.path)
        # After the restoring: the probe's response is to be the student's own.
        checks = Expectations(config, model, renderer, positions, ranks.device)
        publisher = _publisher(config, ranks, feed, model, checks)
        stack.enter_context(publisher)
        heldout = Heldout(config, feed, positions, ranks, lambda: feed.is_over, publisher, step)
        stack.callback(heldout.abandon)
        if metrics:
            heldout.recall(metrics, feed.welcome.total_steps)
        checkpointer = CommittingCheckpointer(
            config.run.folder / "checkpoints", trainer, renderer, config, feed
        )
        began = process.began - process.past_s
        progress = Progress(config, feed, publisher, checkpointer, step, metrics, trained, began)
        session = Session(
            config, ranks, trainer, feed, publisher, heldout, checkpointer, progress,
            process.monitor,
        )  # fmt: skip
        session.run()


def _trained_log(config: RunConfig, step: int, ranks: Ranks) -> TrainedLog | None:
    """None means that nothing is to be kept."""
    assert config.run.folder is not None
    share = config.run.trained_gib * 2**30 / ranks.world_size
    return TrainedLog(config.run.folder, step, ranks.rank, share) if share else None


def _enter_in_turn(stack: ExitStack, feed: Feed, ranks: Ranks) -> None:
    """Have rank 0 resume at the broker before any rank takes a batch."""
    if ranks.writes:
        stack.enter_context(feed)
    ranks.meet()
    if not ranks.writes:
        stack.enter_context(feed)


def _publisher(
    config: RunConfig, ranks: Ranks, feed: Feed, model: ImageTextModel, checks: Expectations
) -> Pusher:
    snapshot = snapshot_of(config.weights, PushedWeights(model), ranks)
    if not ranks.writes:
        return Follower(snapshot, checks)
    assert config.run.folder is not None
    return Publisher(
        config.weights,
        feed,
        feed.history,
        snapshot,
        config.rollout.servers,
        config.rollout.start_timeout_s,
        heartbeat_s=feed.welcome.heartbeat_s,
        checks=checks,
        files=weight_folder(config.weights, config.run.folder, model),
        is_interrupted=lambda: feed.is_over,
        ranks=ranks,
        verify_timeout_s=config.rollout.request_timeout_s,
        is_greeting=not config.rollout.engine_urls,
    )


def _filler(renderer: Renderer, positions: PromptPositions, model: ImageTextModel) -> PreparedGroup:
    """A group that no step counts: a small picture and a response of one token."""
    view = probe_view(renderer, positions, drawing())
    vocabulary = model.get_output_embeddings().weight.shape[0]
    response = ordinary_tokens(renderer, vocabulary)[:1]
    return PreparedGroup(
        "filler", view, view, (response,), (np.zeros(1, dtype=np.float32),), (0,), contrast=view
    )
