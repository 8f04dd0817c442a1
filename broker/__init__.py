"""The sample broker hands samples out and queues responses within bounds of staleness.

    rollout servers --lease, submit--> +---------+ <--take, acknowledge-- learner
                                       | broker  |
    rollout servers <--announcement--- +---------+ <--announce weights--- learner
                                            |
                              RUN/journal: every decision, every trajectory

    ledger/     what is decided: pure
    storage/    what is kept: journal and trajectories; has the journal's format
    service/    requests in, replies out
    net/        sockets; has what travels on the wire and which versions must agree

    main        the process: python -m broker.main
    protocol/   every message there is, and how to add a request
    client      the other side, for learners and rollout servers
    exchange    a client's requests, each sent until it is answered
    bundling    groups that are handed in together go in one message
    keys        python -m broker.keys: keys for a run that leaves loopback
    journal     python -m broker.journal: reads, checks and repairs what a run has written

The life of a group, from a row of the data to freed slots:

 1. `common.training_data` reads data.train once. `common.source` puts its samples into a seeded
    order for each epoch: the place in that order is the group, and is kept for good. WAITING.
 2. A rollout server asks for a lease (`rollout.worker` > `broker.client` > `broker.service`). The
    ledger grants it if a slot is free, which bounds staleness, and if the server's weights are new
    enough. LEASED: the group has an attempt number and a time limit.
 3. The worker renders the student's view and asks an engine for n responses
    (`rollout.http_engine`), each with the log-probs and the weight versions behind its tokens.
 4. The worker submits the group. A lease that has lapsed, or a later attempt, makes it too late:
    FENCED. One that is too old is STALE, and the group is issued again.
 5. The broker checks the content, keeps the trajectories (`broker.storage.segments`), then records
    the decision (`broker.storage.frames`), flushes both, and only then replies. READY.
 6. The learner's feed asks for the batch of step k: the first groups in order that no step has
    taken. They are divided over its ranks (`broker.ledger.shards`). TAKEN.
 7. `learner.views.preparation` checks every group once more, renders the views of student and
    teacher, and makes tensors. A group that does not check out is refused, with the reason.
 8. `learner.trainer` computes the step. When every rank has acknowledged it, the learner's version
    is k, and the groups are DONE.
 9. The learner announces the weights of version k and pushes them (`learner.push`). A rollout
    server acknowledges when it serves them (`rollout.weights`).
10. When all live rollout servers serve weights made from step k its slots are freed, and step 2 is
    possible for a new group. A checkpoint (`learner.checkpoint`) commits the step: a learner that
    comes back goes on from there, and what was trained later returns to WAITING.

What fails on the way returns to WAITING: a lease that lapses, a server that leaves, an error of the
engine. `broker.ledger.attempts` says when a sample has been tried often enough; it is then
QUARANTINED, and another group takes its place.

Invariant: after every request the books balance, issued = trained + expired + quarantined + waiting
+ in flight, and no trajectory is trained that is more than broker.max_staleness steps old.
tests/broker/proof holds both in every state of small systems, in a simulator and with processes.

How to add a request: `broker.protocol` says it. tests/broker/test_protocol.py fails while one of
the three places is missing.

Imports point down: service > storage > ledger, and service > net. Learner and rollout know only
client, protocol, keys and net.transport. torch is never imported.
"""
