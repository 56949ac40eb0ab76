"""partimento trains music models: audio becomes codec codes, models learn them, what they play is heard and measured.

What the command line does on the road and in the laboratory is a call of the same name here, with the same defaults:
`partimento.encode(...)`, `partimento.train(...)`, `partimento.sample(...)`, `partimento.report(...)`.
Each is imported when it is first used, so that `import partimento` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_CALLS = {
    "ablate": "partimento.lab.ablation.ablate",
    "again": "partimento.play",
    "compare": "partimento.lab.compared.compare",
    "decode": "partimento.codecs.encode",
    "demo": "partimento.road",
    "doctor": "partimento.lab.doctor.doctor",
    "encode": "partimento.codecs.encode",
    "export_weights": "partimento.lab.card",
    "import_weights": "partimento.runs.foreign",
    "load_config": "partimento.config",
    "log": "partimento.lab.logbook.logbook",
    "memorised": "partimento.lab.memorised",
    "overfit": "partimento.lab.preflight",
    "plan": "partimento.lab.plan",
    "preflight": "partimento.lab.preflight",
    "rank": "partimento.lab.compared.rank",
    "report": "partimento.lab.report",
    "sample": "partimento.play",
    "score": "partimento.lab.score",
    "stream": "partimento.play",
    "track": "partimento.runs.trackers.afterwards",
    "train": "partimento.training.engine",
    "watch": "partimento.lab.watching.live",
}
_NAMES = {"import_weights": "import_foreign", "load_config": "load", "export_weights": "publish"}

__all__ = ["__version__", *_CALLS]


def __getattr__(name: str) -> Any:
    if name not in _CALLS:
        raise AttributeError(f"module 'partimento' has no attribute {name!r}")
    return getattr(importlib.import_module(_CALLS[name]), _NAMES.get(name, name))
