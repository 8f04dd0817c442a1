"""Figures of a step: its parts in seconds, means over its tokens, and the files they go to.

    step_figures    the figures of one step, over tokens, micro-batches and ranks
    stopwatch       seconds by part of a step
    metrics         RUN/metrics.jsonl and TensorBoard; has the list of metrics
    tensorboard     TensorBoard's file format

Invariant: a figure does not depend on how the step was packed or divided over ranks.

How to add a metric: sum it in `step_figures`, name it in `metrics`. With a gate: `learner.health`.
"""
