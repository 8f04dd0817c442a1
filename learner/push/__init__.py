"""Weights on their way to the rollout servers, and how they are verified there.

    main:      | forward, backward k+1 ... | wait for the snapshot | optimizer step | push k+1
    gatherer:  | bucket 0 | bucket 1 | ...
    publisher: | members > group > announce | send 0 | send 1 | ...

The main thread waits only if the optimizer is about to change weights that are not copied yet, or
if the push before is not through. A push that fails is announced again, in a new group, without
the servers that are gone. A server that has not acknowledged a push (it came
late, restarted or failed inside) is found by `push_again_if_behind`.

    pusher          how every rank takes part in a push
    publisher       pushes to every live rollout server, in threads beside the next step
    roster          which servers a push goes to
    routes          through a group, or as files
    pushed_weights  the student's weights under the names that servers take
    buckets         weights as byte buckets, and a snapshot that fills beside the step
    group           a torch.distributed group of its own; the learner is rank 0
    weight_files    the other way: a Hugging Face folder a version, in a shared folder
    follower        what ranks other than the first do in a push
    streams         a queue of the device beside the trainer's
    expectations    what a server must answer: log-probs of probes, checksums of tensors
    probe_pictures  the pictures of the probes
    cuda_checksum   SGLang's checksum of a tensor on a GPU

Names of tensors. The same bytes have a name in each of three places; `common.served_names` has the
rules between them.

    own:     a parameter's name in the transformers model and in checkpoints. Adapters (LoRA) have
             none here: the merged weight has the name of the layer that they adapt
             model.language_model.layers.0.self_attn.q_proj.weight
    pushed:  what a bucket's table calls it, in an announcement and in a folder of weight files; the
             name that SGLang takes in an update (`pushed_name`)
             model.layers.0.self_attn.q_proj.weight
    served:  SGLang's own tensor, as its checksums name it: several pushed ones joined, in a fixed
             order, a vocabulary with rows of zeros behind it (`served_tensors`)
             model.layers.0.self_attn.qkv_proj.weight

The learner turns own into pushed when it fills a bucket; the embedded engine turns pushed into own
when it receives one; SGLang joins pushed into served. Checksums are compared by served names.

Who can join a push. torch's rendezvous and gloo neither authenticate peers nor encrypt, and SGLang
joins in no other way. The group listens at one address only, on loopback unless the run's broker
has left it (`learner.main` checks it), and off loopback the network itself must be trusted. On
loopback another user of the machine can connect. A connection that sends nothing, or nothing that
belongs, does not delay a push. One that speaks torch's protocol can read the store and, while a
group is formed, disturb it or take a rank's place. The push then fails within its timeout and is
made again in a new group, and weights from elsewhere pass neither checksums nor probe; but the
model's may have been read. Where users of one machine must not, weights.transport = "files" with a
folder of mode 700 has no port.

Invariant: a server generates with version k only if all tensors of k have arrived, and where a push
is verified, only if checksums and log-probs agree. Every wait has an end. tests/pipeline kills and
stops both sides at each point of a push (test_push_faults.py).
"""
