"""Machines, pools, and what each process of a run is on them."""
