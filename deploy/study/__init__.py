"""Named configurations times seeds, run one after the other, and what they come to."""
