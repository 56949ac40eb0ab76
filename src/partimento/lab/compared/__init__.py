"""Runs side by side: what a change did, with what certainty, and how many more seeds would tell."""
