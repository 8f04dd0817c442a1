"""A run as a trace that Perfetto (ui.perfetto.dev) and chrome://tracing open.

    RUN/journal ------> lives ----+--> clocks --+
    RUN/spans --------> marks ----+             +--> broker_tracks, learner_tracks,
    RUN/metrics.jsonl ------------+             |    rollout_tracks --> trace_file
                                  '--> overview-'

marks            what processes noted (`common.spans`)
lives            what became of each lease of a group, from the journal
overview         one look at everything: steps, samples for the clocks, what is missing
clocks           seconds of each process on one clock
broker_tracks, learner_tracks, rollout_tracks    what is drawn of each
trace_file       Chrome's JSON trace format, as a stream

How to add a mark: `common.spans.span` around it, with the step, version or group that it is of. It
is drawn in the row of its thread; marks of one thread lie apart or within one another.

Everything is read twice and never held: memory grows with steps and processes, not with groups.
"""
