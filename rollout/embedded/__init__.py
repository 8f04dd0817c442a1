"""A generation engine on plain transformers that serves SGLang's HTTP endpoints.

    server, chat --requests--> scheduler (compute thread) --> sampler --> model
    update_session --buckets--> weights, bucket_memory ---------------------^

    __main__            python -m rollout.embedded --model-path FOLDER --port N
    server              SGLang's endpoints: generate, pause, weight updates, health
    chat                OpenAI's endpoints
    chat_requests       the body of a chat completion, checked
    chat_replies        the reply to it, whole or in parts
    chat_template       messages -> the prompt's text
    requests            the body of /generate, checked field by field
    bodies              JSON bodies
    prompts             a request -> model inputs
    pictures            the pictures of a request
    token_texts         tokens as text
    stop_strings        texts that end a response
    job                 a request under way
    running             a job awaited from the event loop
    scheduler           the compute thread that owns the model; forms batches, pauses between tokens
    sampler             batched generation with a KV cache; no thread, no socket
    pinned              jobs on copies of earlier weights
    update_session      a weight update: begin, buckets in order, end
    weights             joins the learner's group, takes buckets, loads, checksums
    bucket_memory       memory in which the model's tensors lie as in a bucket

Two threads: asyncio has the sockets, the compute thread the model. The scheduler's condition is the
only lock between them.

Invariant: it answers as SGLang 0.5.23 does, or refuses with the name of the field; what SGLang
would take and this engine cannot do is never ignored. tests/rollout/contract runs the same tests
against both.
"""
