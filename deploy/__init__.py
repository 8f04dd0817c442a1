"""Places processes, keeps them alive, and shows what a run did.

    launch --> options, preflight --> cluster: what goes where --> supervision: starts, watches
                                          |                              |
                                     --dry-run, --slurm, --kuberay   showing: view, logs, report

    launch          one run from start to end: python -m deploy.launch
    options         the launcher's own options
    exit_codes      what the launcher's exit code says
    top             the live view of a run from another terminal
    inspect         a run as a page: curves, samples, tokens
    status, logs, scale    a running run: who is up, merged logs, more or fewer servers
    plan, explain   how to divide machines; what limits a run
    grafana_board   makes deploy/grafana/vision-opd.json of the declared figures
    trace           what each process did when, for Perfetto
    check_gpu, check_push  what this machine's GPU does with our kernels, and with a push

    cluster/        machines, pools, processes
    preflight/      what can be known before a start
    supervision/    places processes, keeps them alive, ends them
    showing/        what people see
    inspector/      a run as a page: every figure, sample and token
    batch/          Slurm and Kubernetes
    planning/       predicts a run, explains one
    tracing/        a run as a trace: python -m deploy.trace
    study/          configurations times seeds
    quickstart/     the quickstart's world and its model

deploy starts learner and rollout as programs and imports only the checks that they offer.
deploy/README.md is for people who operate runs.
"""
