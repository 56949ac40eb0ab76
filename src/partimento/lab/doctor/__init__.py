"""The doctor: what is wrong with a run or a checkpoint, how sure that is, and the one change to try first."""
