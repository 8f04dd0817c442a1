"""Builds the learner of a run from its configuration, and runs it; again after each roll-back."""

import functools
import gc
import logging
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from common.config import RunConfig
from common.kernels import Kernels
from common.rendering import Renderer
from common.training_data import foreseen_source
from learner.checkpoint import discard_after, find_checkpoint, restore
from learner.feed import Feed
from learner.loading import load_models
from learner.measuring.heldout import Heldout
from learner.measuring.metrics import MetricsLog, NoLog
from learner.measuring.watch import HealthWatch, RollBack
from learner.model.ranks import Ranks, init_ranks, meet, rank_failures
from learner.model.student import choose_device, named_weights, prompt_positions
from learner.push.expectations import Expectations, ordinary_tokens, probe_view
from learner.push.follower import Follower
from learner.push.probe_pictures import drawing
from learner.push.publisher import Publisher, snapshot_of, weight_folder
from learner.session import Session
from learner.signals import Signals
from learner.start_check import start_check
from learner.trainer import Trainer
from learner.views.inputs import PreparedGroup
from learner.views.preparation import Preparation
from learner.views.training import open_training_views, render_processes
from learner.views.upcoming import UpcomingSamples

logger = logging.getLogger(__name__)


@dataclass
class _Process:
    """What outlives a roll-back."""

    watch: HealthWatch
    signals: Signals
    began: float  # on time.monotonic's clock
    kernels: Kernels
    past_s: float | None = None  # that the run had lasted before; None: its log is not open yet


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
            watch = HealthWatch(config, is_kept=ranks.is_first)
            process = _Process(watch, Signals(watch.resume), began, kernels)
            while (decision := _live(config, ranks, process)) is not None:
                _free_memory(device)
                _go_back(config, ranks, watch, decision)
    finally:
        ranks.close()


def _live(config: RunConfig, ranks: Ranks, process: _Process) -> RollBack | None:
    """None: the run is over."""
    try:
        _run_once(config, ranks, process)
    except RollBack as decision:
        return decision.with_traceback(None)  # whose frames hold the models
    return None


def _free_memory(device: torch.device) -> None:
    """There is no room for the models of two lives."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _go_back(config: RunConfig, ranks: Ranks, watch: HealthWatch, decision: RollBack) -> None:
    logger.warning("going back to step %d: %s", decision.step, "; ".join(decision.reasons))
    assert config.run.folder is not None
    if ranks.is_first:
        discard_after(config.run.folder / "checkpoints", decision.step)
    watch.goes_on_from(decision.step)
    meet(ranks.group)  # nobody looks for checkpoints before they are gone


def _run_once(config: RunConfig, ranks: Ranks, process: _Process) -> None:
    """From the newest checkpoint to the end of the run, or to a roll-back."""
    assert config.run.folder is not None  # main has checked
    torch.manual_seed(config.run.seed)
    checkpoint = find_checkpoint(config.run.folder / "checkpoints", config, ranks)
    step = 0 if checkpoint is None else checkpoint.version
    process.watch.goes_on_from(step)
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
        feed = _feed(config, ranks, preparation, step, process.kernels)
        process.signals.attach(feed)
        stack.callback(process.signals.detach)
        _enter_in_turn(stack, feed, ranks)
        metrics = (
            MetricsLog(config.run.folder, step, lambda: feed.is_interrupted)
            if ranks.is_first
            else NoLog()
        )
        stack.callback(metrics.close)
        if process.past_s is None:
            process.past_s = metrics.time_s
        trainer = Trainer(
            config,
            model,
            teacher,
            feed.welcome.total_steps,
            renderer.vision_token_ids,
            ranks,
            _filler(renderer, positions, model) if ranks.world_size > 1 else None,
            before_update=lambda: publisher.wait_for_snapshot(),
        )
        trainer.optimizer.lr_factor = process.watch.lr_factor
        if checkpoint is not None:
            restore(checkpoint, trainer)
            logger.info("going on from %s", checkpoint.path)
        # After that: the probe's response is to be the student's own.
        checks = Expectations(config, model, renderer, positions, ranks.device)
        publisher = _publisher(config, ranks, feed, model, checks)
        stack.enter_context(publisher)
        heldout = Heldout(config, feed, positions, ranks, lambda: feed.is_over, publisher.mend)
        stack.callback(heldout.abandon)
        session = Session(
            config, ranks, trainer, feed, publisher, heldout, metrics, renderer, process.watch,
            process.began - process.past_s,
        )  # fmt: skip
        session.run()


def _feed(
    config: RunConfig, ranks: Ranks, preparation: Preparation, step: int, kernels: Kernels
) -> Feed:
    return Feed(
        config,
        config.broker.address,
        f"learner-{ranks.rank}",
        preparation,
        step,
        rank=ranks.rank,
        world_size=ranks.world_size,
        kernels=kernels,
    )


def _enter_in_turn(stack: ExitStack, feed: Feed, ranks: Ranks) -> None:
    """The first rank tells the broker where the run goes on, before anybody takes a batch."""
    if ranks.is_first:
        stack.enter_context(feed)
    meet(ranks.group)
    if not ranks.is_first:
        stack.enter_context(feed)


def _publisher(
    config: RunConfig, ranks: Ranks, feed: Feed, model: Any, checks: Expectations
) -> Publisher | Follower:
    snapshot = snapshot_of(config.weights, named_weights(model), is_kept=ranks.is_first)
    if not ranks.is_first:
        return Follower(snapshot, checks)
    assert config.run.folder is not None
    return Publisher(
        config.weights,
        feed,
        feed.history,
        snapshot,
        config.rollout.servers,
        config.rollout.start_timeout_s,
        heartbeat_s=min(2.0, config.broker.member_timeout_s / 4),
        checks=checks,
        files=weight_folder(config.weights, config.run.folder, model),
        is_interrupted=lambda: feed.is_over,
        is_shared=ranks.world_size > 1,
        verify_timeout_s=config.rollout.request_timeout_s,
        is_greeting=not config.rollout.engine_urls,
    )


def _filler(renderer: Renderer, positions: Any, model: Any) -> PreparedGroup:
    """A group that no step counts: a small picture and a response of one token."""
    view = probe_view(renderer, positions, drawing())
    vocabulary = model.get_output_embeddings().weight.shape[0]
    response = ordinary_tokens(renderer, vocabulary)[:1]
    return PreparedGroup(
        "filler", view, view, (response,), (np.zeros(1, dtype=np.float32),), (0,), contrast=view
    )
