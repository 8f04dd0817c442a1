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
