"""Requests in, replies out: who may ask what, and what the ledger, the store and the polls do.

    bytes --> server --> service --> handler of the role --> recorder -> ledger, journal
                ^                        |
                '---- flush, reply <-----'---> polls: held until there is an answer

    server              the process: sockets, the flush before each reply, the end
    service             one request at a time: admission, dispatch, what is settled after each
    opening             a ledger and a store for a new run, or for one that goes on
    handlers            how a request finds its handler: by its class
    member_requests     handlers: to join, to count as alive, to leave
    rollout_requests    handlers: leases, groups, news of the weights
    learner_requests    handlers: batches, checkpoints, pushes, the end
    evaluation_requests  handlers: held-out samples, ordered and answered
    status_requests     the handler of the run's status
    figures             that status as figures for Prometheus
    images              the data's picture files, for machines without its folder
    outbox              replies on their way out
    recorder            a ledger command and its journal record, together
    polls               requests that wait until there is something to answer
    membership          who is there, and since when nothing was heard of them
    handshake           what two sides must agree on before the first request
    rights              which role may make which request
    announcement        what is known of the newest weights
    heldout             the held-out samples' file, for evaluations while training
    quarantine_file     quarantine.jsonl, for people

One event loop, one thread: requests are carried out one after the other. Only flushes and reads of
pictures run in worker threads, and no reply leaves before the flush that covers it.

Invariant: a change of the ledger is recorded or the process ends; what it has acknowledged is in
the journal. tests/broker/service/test_any_message.py sends anything from anyone.
"""
