"""What can be known before anything is started or written. Each check raises ConfigError.

check           all of it: models, data, journal, context, room
context         whether the model's context holds prompt and response
environment     what Ray takes from the environment
gpus            whether environments suit their GPUs
"""
