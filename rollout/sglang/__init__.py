"""How a real SGLang server is started: in its own environment, which has none of our packages.

    launch          run by SGLang's Python, by path: the server, with finite timeouts
    port_gate       what is in front of its HTTP server: keys, hosts, web pages
    media           what it may take for a picture
    image_cache     its cache of encoded pictures, emptied by every weight update
    cpu/            what lets the unmodified package run without a GPU

All of it is run by SGLang's Python and imports nothing of ours; the command that starts `launch`
is made in `common.engines.sglang`. SGLang itself is not changed: requests go to it in
`rollout.http_engine`, and the names of its weights are in `common.served_names`.
"""
