"""The memorisation audit: what of the samples stands in the training clips, and how sure that is."""

from partimento.lab.memorised.audit import memorised
from partimento.lab.memorised.audited import Audit

__all__ = ["Audit", "memorised"]
