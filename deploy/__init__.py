"""Places and watches the processes; shows what a run did."""
