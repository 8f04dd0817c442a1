"""What a response says, and whether it is the reference answer. Rules alone; no torch."""
