"""What a GPU must show before a run is trusted to it: `python -m deploy.check_gpu` runs this."""
