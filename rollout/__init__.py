"""Rollout: lease samples, have an engine answer them, hand the groups in, take new weights.

    broker --lease--> worker --> pool --> engine (SGLang or embedded, by HTTP)
      ^                 |                    ^
      '---- submit -----'                    | pause, buckets, end, resume, probe
    broker --announcement--> weights --------'          the bytes come from the learner

    main                one process that drives one engine or several: python -m rollout.main
    rollout_server      one server's life: engine, membership of the broker, restart of the engine
    worker              lease > generate > submit, as many groups at once as there are slots
    pool                which server generates which group
    serving             what a server serves now: weights, quarantine, figures
    engine              what is asked of an engine, and how it fails
    http_engine         the client of any server with SGLang's endpoints
    engine_process      starts an engine as a child, waits for it, ends it
    engine_views        what an engine is given of a sample
    image_files         the files behind pictures, from the data's folder or from the broker
    weights             carries out announced weight updates
    verification        compares checksums and log-probs after a push
    pins                copies of weights that one engine keeps for measurements
    answering           answers held-out questions for the learner's measurements
    serve               python -m rollout.serve: a checkpoint behind OpenAI's API
    serving_checkpoint  serves a checkpoint for as long as a block of code runs
    server_errors       what an HTTP server says is wrong, in one line
    evaluate, gap, compare    commands over `rollout.evaluation`

    sglang/             starts the real SGLang
    embedded/           our own engine, on plain transformers
    evaluation/         accuracy on published and own sets

The life of a group is in `broker`, the names of weights in `learner.push`.

Invariant: an engine never generates with weights that are half new, and every token of a trajectory
carries the version that it was computed with. tests/rollout/contract holds both engines to one
contract; tests/pipeline compares every log-prob with those of the weights that it names.

How to add an engine: `common.engines` says it. tests/rollout/contract is the specification.
"""
