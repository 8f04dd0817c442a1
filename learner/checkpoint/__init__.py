"""Checkpoints: a Hugging Face folder of the student, and beside it all that training needs.

    RUN/checkpoints/
        step-000060/
            model.safetensors               the student, float32; beyond 5 GiB in parts and an index
            config.json                     as the start has it, but for the dtype
            tokenizer, processor, ...       all other small files of the start, byte for byte; with
                                            prompt.chat_template in the place of its template
            teacher/weights.safetensors     float32 master, without what the student does not train
                                            either; absent if it has no weights of its own
            training/adapters.safetensors   if model.lora_rank > 0; the student has them merged in
            training/optimizer.safetensors  AdamW: exp_avg.NAME, exp_avg_sq.NAME, step.NAME
            training/random.safetensors     states of torch's generators: cpu.RANK, cuda.RANK
            training/unknown.safetensors    tensors of the start that the model's class has not (an
                                            MTP head), unchanged; absent if there are none
            training/config.json            config.json of the start, with the dtype it came in
            run.toml                        the configuration
            state.json                      version, run seed, digests of all other files (of one
                                            that n ranks wrote, n digests of its parts), the oldest
                                            step that can be gone back to, how the student's files
                                            name tensors, each one's dtype in the start, and the
                                            tokens that ended a response
        scores.json                         accuracy on full images by version, where measured

Every tensor is whole, under its parameter's name, so any number of ranks can load it, each reading
its own part. Ranks write the same files together, each its own rows of every tensor; of replicas
(HSDP) the first writes. The files are those that one rank would have written. Ranks of a replica
that are on several machines need a file system that keeps neighbouring bytes of two machines apart
(parallel ones do, NFS does not promise it); by default those of a replica are on one machine.

The learning rate is a function of the version. A folder is written under another name, the broker
is told, and then it is renamed: a name that ends in digits is complete, and the broker knows all
steps that it holds. A learner that starts on a run folder goes on from the newest one, bit for bit.
`--model.path RUN/checkpoints/step-000060` starts another run from the student.

The newest `checkpoint.keep` can be gone back to. Those of `checkpoint.keep_best` that are older are
there to be exported or started from: the broker has forgotten the steps behind them.

Saving goes on beside training:

    save():  wait for the last write | note every tensor |  -> training, up to the next update
                                                     thread:  write > tell the broker > rename
                                                              > remove what is superseded

Each rank writes its own part of the tensors, straight from where they are; the first rank does the
rest. What is not written when the next update of the weights begins is copied to main memory then:
at most this rank's part of all tensors. For that long, or while a write is slower than the time
between checkpoints, the training thread waits. At most one write is under way; its error is raised
by the next `save` or `wait`, on all ranks. On a full disk it waits for room, and gives back what it
has taken.

Live tensors go to the files through `copy_on_write`:

    add(...), add(...)      live tensors, none of them copied
    read(...)               by the writing thread: a copy of one, in main memory
    secure()                by the training thread, before they change: copies what is not written
    release()               all is written

Where writing takes less than a step's forward and backward passes, nothing waits, and one
tensor at a time is in memory twice. Else `secure` copies this rank's part of everything.

What python -m learner.export CHECKPOINT OUT makes of one:

    OUT/
        config.json             as the run's start has it; another dtype if --dtype says so
        generation_config.json  names every token that ended a response in training
        chat templates          think by default as in training, where they can do both
        tokenizer, vocabulary, processor, licence       byte for byte as the run's start has them
        model.safetensors       or parts of at most --max-shard-gib with an index; with the tensors
                                of the start that training did not load
        MANIFEST.json           size and sha256 of every other file, and what was exported

Paths and the like of the machines that wrote the settings are taken out. Weights go through one
tensor at a time. OUT is written under another name and then renamed, so it is whole or not there.

    checkpointer        saves while training goes on
    cut                 what is saved, as it is at one instant
    copy_on_write       live tensors, copied only if they are to change
    fellows             the ranks' writing threads among themselves
    files, paths        the files of one checkpoint
    tensor_files        safetensors files, in parts
    tensors             from files into tensors, sharded or not
    start, names, side_files, templates, config_dtype    what the start has beside the weights
    folder              which checkpoints are complete, kept, removed
    restore             back into a trainer
    nearest             the kept weights nearest to those that a step began from
    export_settings, export_dtypes, export_teacher       what learner.export makes of one
    generation_config, thinking_default, local_traces    what an export says and leaves out
"""

from learner.checkpoint.checkpointer import Checkpointer
from learner.checkpoint.cut import Trained
from learner.checkpoint.folder import (
    Checkpoint,
    discard_after,
    find_checkpoint,
    list_checkpoints,
    roll_back_targets,
)
from learner.checkpoint.restore import load_teacher, restore

__all__ = [
    "Checkpoint",
    "Checkpointer",
    "Trained",
    "discard_after",
    "find_checkpoint",
    "list_checkpoints",
    "load_teacher",
    "restore",
    "roll_back_targets",
]
