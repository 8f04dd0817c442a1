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
"""
