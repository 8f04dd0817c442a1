"""What a GPU must show before a run is trusted to it: `python -m deploy.check_gpu` runs this.

__main__, command   one part: python -m learner.checking PART --out FILE
versions            what is installed, and what the device is
kernels             each kernel against float32, forward and gradients
fused_forms         norms and gates by fla's kernels, against float32
plain               what the kernels compute, in plain operators
compared            a computation held to a reference in higher precision
step                a whole step in published proportions, beside the published way
published           the published step, written plainly
imagined            the hot path on fake CUDA tensors: devices of operands
launches            counts operators that are no views
faults              faults that a GPU brings: each must end in an error that is caught
shapes, sizes, lengths   models, batches and how large they are
findings            what a check has found, line by line

The published step. Every response is a sequence of its own with its own copy of image and question,
through vision tower and decoder. Sequences are packed into micro-batches by the student's tokens;
the output head, logsumexp and top-k run on every position, prompts included, and their logits are
materialised for both models. Where the published code carries the delta net's state from one
sequence into the next (a defect, not a saving) this one resets it; attention is causal within each
sequence, as with flash-attention's varlen kernels. Optimizer and teacher are the learner's own.
"""
