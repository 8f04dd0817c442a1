"""Health gates: what a run's figures say about it, and what they remember of it.

    gates       do the figures say that a run goes wrong, and what is to be done then
    monitor     the gates over a run: their memory in RUN/health.json, pauses, roll-backs

A gate is declared beside its figure in `common.metrics`, by what is out of bounds:

    growth: above bound * baseline          shrink: below bound * baseline
    drop:   below the best so far - bound   limit:  above bound

A baseline is the mean of a figure's first `warmup_steps` finite values (at least one), which are
not judged themselves; one of 0 bounds nothing. A value that is not finite is out of bounds at any
time. A figure that is absent says nothing, for or against.

A gate acts once, when its figure is out of bounds for the `patience`-th time in a row, and is quiet
until the figure has been in bounds again. Accuracy is measured seldom, so that two measurements in
a row (one, if patience is 1) are enough; a single one of some hundred samples is too noisy.
A mismatch comes from the rollout's numerics or weights, which neither waiting nor older weights of
the student fix: that gate warns, and stops the run where the action is "stop". The mismatch of a
single sample is reported at once, with the sample's name, and never does more than warn.

How to add a gate: a `Gate` beside its metric in `common.metrics`, and the key of its bound in
`common.config.HealthSection`; none there means off. Its ratio is a metric, too. `health.action` is
one key for all gates, and a `limit` gate only warns or stops: `gates` decides (`_action`). A new
one also stands in the list of gates of deploy/README.md, which no test compares.
"""
