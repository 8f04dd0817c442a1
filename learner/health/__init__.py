"""Health gates: what a run's figures say about it, and what they remember of it.

    gates       do the figures say that a run goes wrong, and what is to be done then
    monitor     the gates over a run: their memory in RUN/health.json, pauses, roll-backs

How to add a gate: a `Gate` beside its metric in `common.metrics`, and the key of its bound in
`common.config.HealthSection`; none there means off. Its ratio is a metric, too.
"""
