"""Figures of a run: metrics, held-out accuracy, health.

    step_figures    the figures of one step, over tokens, micro-batches and ranks
    stopwatch       seconds by part of a step
    metrics         RUN/metrics.jsonl and TensorBoard; has the list of metrics
    tensorboard     TensorBoard's file format
    health          gates: do the figures say that a run goes wrong, and what is to be done
    watch           carries the gates through a run: memory, pauses, roll-backs
    heldout         the held-out samples: what is measured on them, and when
    measurement     one measurement by the rollout servers, beside training
    evaluation      accuracy from answers
    scenes          what the report shows of a dozen held-out scenes

Invariant: a figure of a step does not depend on how the step was packed or divided over ranks; an
accuracy names the version of the weights that answered.

How to add a metric: sum it in `step_figures`, name it in `metrics`. With a gate: a rule in `health`
and its keys in `common.config.HealthSection`, which tests/learner/measuring/test_health.py takes
through every gate.
"""
