"""The views. A module here that defines VIEW is one; nothing else has to be told of it."""
