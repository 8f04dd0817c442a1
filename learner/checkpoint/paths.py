"""Where a checkpoint's folder has what; `learner.checkpoint` shows it whole."""

STATE = "state.json"
TEACHER = "teacher/weights.safetensors"  # apart: servers load every such file beside config.json
ADAPTERS = "training/adapters.safetensors"
OPTIMIZER = "training/optimizer.safetensors"
RANDOM = "training/random.safetensors"
UNKNOWN = "training/unknown.safetensors"  # of the start, which the model's class does not load
START_CONFIG = "training/config.json"  # the start's, with the dtype that the model came in
