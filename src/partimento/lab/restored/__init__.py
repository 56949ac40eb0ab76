"""Evaluation of restorers, or of anything that makes a wave with a target: figures, artifacts, intervals, a page."""
