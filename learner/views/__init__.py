"""What student and teacher look at: samples rendered into model inputs, ahead of need."""
