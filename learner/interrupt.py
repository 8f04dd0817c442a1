"""How a learner's threads and ranks learn that they are to stop."""


class Interrupted(Exception):
    """The process was asked to stop, or the run was ended. Not an error."""
