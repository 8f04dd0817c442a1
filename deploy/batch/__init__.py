"""Runs as jobs of Slurm and of Kubernetes."""
