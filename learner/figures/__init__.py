"""Figures of a step: its parts in seconds, means over its tokens, and the files they go to.

    step_figures    the figures of one step, over tokens, micro-batches and ranks
    stopwatch       seconds by part of a step
    metrics         RUN/metrics.jsonl, TensorBoard, RUN/groups.jsonl
    tensorboard     TensorBoard's file format

Invariant: a figure does not depend on how the step was packed or divided over ranks.

How to add a metric, in two places; tests name the one that is missing:

 1. its `Metric` in `common.metrics`. `over` says how it is one number for all ranks. With `chart`
    it is in the report, with `gauge` in the learner's heartbeats.
 2. its value: of each token in `StepFigures._of_tokens`, of each trajectory in `_of_trajectories`
    (a trajectory is there as rollout sent it), of a step in `learner.trainer`, of the order of
    events in `learner.progress`.

With a gate, in a third: `learner.health`.
"""
