"""Places processes, keeps them alive, and ends them in good order."""
