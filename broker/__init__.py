"""The sample broker hands samples out and queues responses within bounds of staleness.

    ledger/     what is decided: pure
    storage/    what is kept: journal and trajectories
    service/    requests in, replies out
    net/        sockets

    main        the process: python -m broker.main
    protocol/   every message there is
    client      the other side, for learners and rollout servers; exchange sends its requests
    keys        python -m broker.keys: keys for a run that leaves loopback
    journal     python -m broker.journal: reads, checks and repairs what a run has written

Imports point down: service > storage > ledger, and service > net. Learner and rollout know only
client, protocol, keys and net.transport. torch is never imported.
"""
