"""A trained model as a directory that is ready for a model hub: weights, configuration, card, report."""

from partimento.lab.card.export import publish

__all__ = ["publish"]
