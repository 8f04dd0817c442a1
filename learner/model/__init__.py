"""The model as it trains: loaded, packed, adapted, sharded over ranks; and the teacher.

    prompt [image, question] --+--> response 1        A group is a tree in one packed row: the root
                               +--> response 2        is computed once, forward and backward, and
                               '--> response n        each branch continues from its end.

    student             loads it, and runs it up to the hidden states that predict responses
    teacher             which weights score the student's tokens, and how they follow the student
    packing, layout     groups -> one packed row; where its sequences lie
    tree_attention      attention in a packed row of trees
    ragged_attention    attention over sequences of different lengths, with its log-sum-exp
    batched_attention   the same by torch's flash kernel for CPUs
    delta_net           the gated delta net of Qwen3.5 in a packed row of trees
    ragged_delta_net    the same by flash-linear-attention's kernels
    fla_kernels, fused  whether those kernels run; norms and gates by them
    vision, pictures    the vision tower over a row's images; their way to the device
    last_layer          the last decoder layer computes only what is asked of it
    lora                adapters of the language model
    frozen              weights that are not trained, held once for two models
    sharding            FSDP2 over ranks
    held                offloaded models stay on the GPU from first to last micro-batch
    transfer            copies from the host to a device that the host does not wait for

Invariant: a packed row gives what transformers' own forward gives for each sequence alone, and so
does every gradient (float32, 1e-5: tests/learner/model/test_packing.py).

How to add a teacher policy: its name in `common.config.objective.TeacherPolicyName`, and what it is
in `TEACHER_POLICIES` beside it: help, learner, checkpoints and planner go by that. What it does
after an optimizer step, if no other policy does it, is a case of `Teacher.update`, which knows the
step alone (accuracies come steps later, to `Session._take_measurements`); an option is a key of
`TeacherSection`. deploy/README.md names it. tests/learner/model/test_teacher.py holds every
policy to what it declares, tests/deploy/planning/test_memory.py the planner.

How to add a model family: `common.families` says it.
"""
