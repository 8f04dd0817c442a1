"""Figures of a step: its parts in seconds, means over its tokens, and the files they go to.

    step_figures    the figures of one step, over tokens, micro-batches and ranks
    drift           rollout's log-probs against the learner's: quantiles, and means by age
    stopwatch       seconds by part of a step
    metrics         RUN/metrics.jsonl, RUN/groups.jsonl
    trackers        where figures go beside them: run.trackers
    trained         RUN/trained: the tokens of each step, in the background
    tensorboard     TensorBoard's file format
    tracker_program, wandb_run, mlflow_run    W&B and MLflow, in a process beside the learner

RUN/metrics.jsonl has one JSON object a step and one a measurement; RUN/groups.jsonl one a trained
group, if data.keep_columns asks for it.

Every row has "step" (the version that the row describes; 0: before training) and "time_s" (seconds
since the learner began). Other keys are there when they apply; values are finite numbers or null,
and one is a text. A learner that goes on from a checkpoint removes the rows of the steps that are
undone, and counts seconds on from the last row that stays: there is one training row a step, and
time only grows. The clock of a process does not go back when a health gate has it go back to a
checkpoint.

The figures, what they mean and where they are healthy are declared in `common.metrics`; a row of a
step has all that apply to it, and health/action unless all gates are off. Rollout servers measure
while training goes on: a measuring row stands where it was known, after rows of later steps
perhaps.

Invariant: a figure does not depend on how the step was packed or divided over ranks.

How to add a metric, in two places; tests name the one that is missing:

 1. its `Metric` in `common.metrics`. `over` says how it is one number for all ranks. With `chart`
    it is a line of one of CHARTS, with `gauge` in the learner's heartbeats. Then make
    common/METRICS.md anew. Another name for it: the old one goes into `common.figure_rows`.
 2. its value: of each token in `StepFigures._of_tokens`, of each trajectory in `_of_trajectories`
    (a trajectory is there as rollout sent it), of a step in `learner.trainer`, of the order of
    events in `learner.progress`.

With a gate, in a third: `learner.health`.
"""
