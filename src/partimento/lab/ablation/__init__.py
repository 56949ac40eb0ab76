"""A grid of changes times seeds: planned, trained, resumed, and compared at its end."""
