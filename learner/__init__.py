"""The learner: objective, teacher, optimizer, checkpoints, weight push."""
