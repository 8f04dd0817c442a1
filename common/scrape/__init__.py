"""GET /metrics: what each process of a run tells Prometheus.

    exported    what may be told: name in Prometheus, meaning, kind
    collector   current figures of a process, read when they are asked for
    port        the HTTP port, and RUN/scrape/PROCESS.json, by which Prometheus finds it

    process --read()--> collector --text--> port <--GET /metrics-- Prometheus
                                             '--> RUN/scrape/PROCESS.json (file_sd)

Every figure of `common.metrics` is told under its own name, with "vision_opd_" before it:
learner/loss_nats is vision_opd_learner_loss_nats. Other figures (the broker's counts, what a server
did) are declared in `exported`. Each has the labels run, role and process; those of the process
itself (process_*) too. `deploy.grafana_board` makes a board of them.

Nothing is counted or computed for it between two scrapes, no thread is started, and no global
registry is used: a scrape reads what the process knows anyway, on the loop that it has anyway.

How to add a figure: declare it in `common.metrics` if a row of a file has it, else in `exported`;
put its value into what the process gives `scrape_port`: `broker.service.figures`,
`rollout.serving`, `learner.progress` or `deploy.supervision.launcher_figures`.

Invariant: whatever fails here is logged once, and the run goes on.
"""
