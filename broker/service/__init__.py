"""Requests in, replies out: who may ask what, and what the ledger, the store and the polls do.

server          the process: sockets, the flush before each reply, the end
service         one request at a time: admission, dispatch, what is settled after each
opening         a ledger and a store for a new run, or for one that goes on
rollout_desk    requests of rollout servers; learner_desk of learners; evaluation_desk of both
counter         a ledger command and its journal record, together
polls           requests that wait until there is something to answer
membership      who is there, and since when nothing was heard of them
handshake       what two sides must agree on before the first request
rights          which role may make which request
announcement    what is known of the newest weights
heldout         the held-out samples' file, for evaluations while training
quarantine_file quarantine.jsonl, for people
"""
