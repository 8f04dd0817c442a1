"""The learner: takes batches, trains the student towards its teacher, pushes the new weights.

    broker --> feed --> views --> trainer: teacher forward, student forward, objective, backward,
                 ^                |         clip, optimizer step, teacher moves, version + 1
                 |                v
                 '-------------- session --> push --> rollout servers
                                      '----> checkpoint, measuring

    main            the process: python -m learner.main
    assembly        builds the parts from the configuration; again after a roll-back
    session         the order of events in a run
    batches         the next batch, for all ranks or for none
    saving          checkpoints, of which the broker is told before they are valid
    progress        what a run reports while it lasts
    summary         what it reports at its end
    interrupt       how threads and ranks learn that they are to stop
    agreement       what must be as the broker's configuration has it
    ranks           several processes that train one model
    feed            the thread that talks to the broker
    trainer         one step
    scoring         what the teacher says of a step's groups
    micro_batches   the groups of a step, divided by a budget of tokens
    optim           AdamW, schedule, clipping, refusal of gradients that are not finite
    loading         student and teacher at a start, each rank its part
    start_check     whether this process's environment suits its GPUs
    signals         what SIGTERM, SIGINT and SIGUSR1 ask
    data_summary    what became of the data, for summary.json
    export          python -m learner.export: a folder that transformers and SGLang load
    rescore, rescoring    python -m learner.rescore: what kept weights make of a group

    objective/      the loss and its gradient; has the equations
    model/          the student as it trains, packed and sharded; the teacher
    views/          what student and teacher look at
    push/           weights to the rollout servers; has the names of tensors
    checkpoint/     the folder of a run's checkpoints; has its layout
    figures/        figures of a step, and the files they go to
    health/         health gates
    measuring/      held-out accuracy
    checking/       what python -m deploy.check_gpu runs

A run (`session`):

    push 0 | [ take > accumulate > update > acknowledge > push ] x steps | push | save | finish
           '- servers measure 0, and others in between -'                '- and the last -'

A push copies the weights beside `accumulate`; `update` waits for that copy. What servers have
measured is looked at between two steps. Where they keep no copy of the weights that they measure,
the next push waits for them.

SIGTERM or Ctrl-C: the step under way is finished, then a checkpoint and the summary are written.
On a run folder with checkpoints it goes on from the newest, as if it had never ended:

    push k | [ take > accumulate > ... ] x the other steps | ...

A step (`trainer`):

accumulate: batch --> micro-batches --> teacher(crop), without grad --> hidden states
                                                                              |
                  --> micro-batches --> student(full image) --> objective <---+
                                                                    | backward
                                     the parameters' gradients <----+

update:     clip by the global norm --> optimizer step --> teacher moves --> version + 1

Between the two a push under way finishes its copy of the weights.

Loading. One rank loads the model as transformers does. Of several none ever holds it whole:

    outline, on the meta device > teacher, a copy of the outline > memory for the shards of both
      > fill the student's from the files > fill the teacher's from the student's, or its own files

A checkpoint's student is not read from `model.path` first, unless adapters need what lies under
them.

Threads. Each rank is a process with these; what crosses between two of them is guarded as follows.

    MAIN:        torch: forward, backward, every collective of the step, the session
    feed:        asyncio: all requests to the broker. Batches come to MAIN by a SimpleQueue, which a
                 signal handler may use too; other threads ask by `Feed.call`, which waits, with a
                 limit, or `Feed.begin`, which does not
    preparation: a worker of feed's loop: one batch becomes model inputs
    gatherer:    copies weights into buckets (`push.buckets.Snapshot`, its condition `_changed`)
    publisher:   one push at a time: members, group, announcement, bytes. Waits for buckets by the
                 same condition; MAIN waits for it by its Future
    join NAME:   a thread for each push group that is being joined: NCCL has no limit of its own
    checkpoint:  writes files from a cut. `checkpoint.copy_on_write` has a lock: MAIN copies what is
                 not yet written before the optimizer changes it
    render_N:    one for each process that renders views. `views.prompts` has a lock, which is never
                 held while a view is rendered

    Measurements: answers are written by feed alone; the condition of `measuring.measurement` wakes
    MAIN, which reads them. Between ranks: MAIN threads use the default group; the checkpoint
    threads have one of their own (`checkpoint.fellows`), so that two collectives never meet.

Ranks meet at rank 0's MASTER_ADDR and nowhere else of its machine. Like all of torch.distributed
that port authenticates no peer: off loopback the network itself must be trusted.

Only two things hold MAIN up for a push: weights may not change before they are copied, and one push
is finished before the next begins. None of these locks is held while another of them is taken.

Invariant: the same batches in the same order give the same weights: bit for bit after a resume, to
rounding however tokens were packed or divided over ranks (tests/learner/test_trainer.py,
test_trainer_ranks.py, tests/pipeline/test_synchronous.py, test_resume.py).
"""
