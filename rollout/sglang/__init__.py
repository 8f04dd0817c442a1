"""How a real SGLang server is started: in its own environment, which has none of our packages.

    command         its command line and environment, from the configuration; refuses unfit flags
    packages        what its environment has for GPUs, looked at before a model is loaded

    launch          run by SGLang's Python, by path: the server, with finite timeouts
    port_gate       what is in front of its HTTP server: keys, hosts, web pages
    media           what it may take for a picture
    image_cache     its cache of encoded pictures, emptied by every weight update
    cpu/            what lets the unmodified package run without a GPU

`command` and `packages` are imported by our processes. Everything else is run by SGLang's Python
and imports nothing of ours. SGLang itself is not changed: requests go to it in
`rollout.http_engine`, and the names of its weights are in `common.served_names`.
"""
