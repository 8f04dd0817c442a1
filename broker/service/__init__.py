"""Requests in, replies out: who may ask what, and what the ledger, the store and the polls do.

server          the process: sockets, the flush before each reply, the end
service         one request at a time: admission, dispatch, what is settled after each
handlers        how a request finds its handler: by its class
opening         a ledger and a store for a new run, or for one that goes on
*_requests      the handlers: of every member's requests, of rollout servers', of the learner's, of
                evaluations, of the status; images has that of the dataset's pictures
counter         a ledger command and its journal record, together
polls           requests that wait until there is something to answer
outbox          replies on their way out
membership      who is there, and since when nothing was heard of them
handshake       what two sides must agree on before the first request
rights          which role may make which request
announcement    what is known of the newest weights
heldout         the held-out samples' file, for evaluations while training
quarantine_file quarantine.jsonl, for people
"""
