"""What every process agrees on. Nothing here imports broker, rollout, learner or deploy.

Records and the wire:
    types               the records that travel between processes
    group, group_batch  a sample's trajectories as columns; as one Arrow record batch
    wire                MessagePack frames <-> records; PROTOCOL_VERSION (see `broker.net`)
    versions            what a process is made of, as far as two of them must agree on it
    errors              the exceptions that callers tell apart
    metrics             every figure that a run writes: name, unit, meaning, gate, chart
    figure_rows         rows of a run's figures, also as older versions named them

Configuration:
    config/, section    the typed tree; its defaults are the published run
    cluster_config      the sections that say where processes run
    config_cli          TOML and --section.key value -> RunConfig

Data:
    dataset, dataset_columns, dataset_paths    rows from Parquet, and what a cell may hold
    dataset_files       writes such a file
    dataset_lookup      one row by its name
    parquet_rows        rows a batch at a time
    bad_rows            why a row cannot be used
    reading             a dataset, read with all that can be known before generation
    sample_checks, picture_checks, prompt_lengths    what a row can still be refused for
    kept_reading        RUN/reading.json
    data_health         how much of the data cannot be trained on, and when that ends a run
    training_data       from data.train to the stream of groups
    source              that stream: every epoch in a seeded order, any place at any time
    hub_datasets        files of a dataset on the Hugging Face hub

Pictures and prompts:
    images              pictures by content: digest and size
    pictures            any picture file -> upright 8-bit RGB
    picture_grid, picture_sizes    the size that an image processor makes of a picture
    patching            8-bit pixels -> patches, exactly
    rendering           question and picture -> token ids and pixels
    chat_template       what a template does about thinking
    control_tokens, end_tokens    tokens that a text may not hold, and that end a response

Models:
    model_folder, model_files, model_loading    where a model is; whether it is whole; loads it
    families/           what differs from one model family to the next
    engines/            what differs from one engine to the next, and how each is started
    image_text_model    what is asked of a model of transformers, as types
    forwards, patch_embedding    modules of transformers that compute in another way
    weight_dtypes       which weights stay float32
    served_names        SGLang's names and checksums of weights (see `learner.push`)
    push_groups         how both sides of a push come to be in one group
    sglang_states       how a server of a hybrid model divides its memory

Machines:
    gpus, gpu_packages, kernels    GPUs, what is installed for them, which kernels compute
    cpu_threads         how threads of one computation wait
    torchvision_compat  torchvision beside a CPU build of torch
    network, addresses, proxies    interfaces, HOST:PORT, HTTP proxies
    http_gate, http_port    who may use an HTTP port of ours; how much of it one may take

Processes and files:
    lifecycle           start, signals, stop
    spans               marks of what a process did when: RUN/spans
    restart_budget      how often something may be started again
    logs, log_files     the form of a line; files that are begun anew when full
    command_line        how a command is described, and how it refuses
    output              a command whose output nothing reads any more
    files, locks        files that are whole or absent; locks on them
    full_disk           what waits for room, and how
    journal_file        where the journal of a run lies
    trained             RUN/trained: every trajectory that was trained, token by token

Pages and figures:
    page, chart_axes, histograms    self-contained HTML, charts in inline SVG
    statistics          intervals and tests of accuracies

    views/              how a sample is shown to a model
    scrape/             GET /metrics, for Prometheus
    scoring/            what a response says, and whether it is right
    prepare/            python -m common.prepare: makes a dataset
    look/               a dataset as one HTML sheet

How to add a configuration key: `common.config` says it. What a run may not change when it is
resumed is also in `broker.storage.identity`.

How to add a field of a row that people use (its source, say): no code, `data.keep_columns` names
its column. RUN/groups.jsonl and the report have it beside the figures of what was trained: on the
inspector's page those that a gate bounds (`deploy.showing.column_tables`).

How to add a field that models are shown: its column in `dataset_columns` (KINDS), its reading in
`dataset`, its field in `types.Sample`. A sample is part of what a run is and travels to rollout, so
the versions that `broker.net` and `broker.storage` name change with it.

Invariant: bad input is refused here, before anything is computed, with file, row or key, the value
and `Fix: ...`.
"""
