"""What the audit says: of a sample, of the held-out windows, of all. `audit` makes it, `text` and `page` tell it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from partimento.lab.memorised.diversity import Diversity
from partimento.lab.memorised.drift import Drifts
from partimento.lab.memorised.ears import Ears
from partimento.lab.memorised.pvalues import Gumbel, PValue
from partimento.lab.memorised.samples import Sample

LEVEL = 0.05
COPY_SECONDS = 0.5
"""A copied passage that is shorter is not called memorised, however improbable it is."""
NEAR = "near-copy"
FEW_INFORM = 0.1  # of a sample's frames, under which it is called nearly empty


def level_name(books: int, of: int) -> str:
    """What a figure is called."""
    return "first book" if books == 1 else "all books" if books == of else f"first {books} books"


@dataclass(frozen=True)
class Copy:
    """A run of equal frames of the first `books` books; `informative` of its `frames` count. Times in seconds."""

    books: int
    frames: int
    informative: int
    seconds: float
    sample_second: float
    clip: str
    clip_second: float
    clip_frame: int
    sample_frame: int


@dataclass(frozen=True)
class NearCopy:
    """A local alignment (`align.Aligned`), placed; `same` is the share of its steps that are equal frames."""

    score: int
    matches: int
    mismatches: int
    gaps: int
    same: float
    seconds: float
    sample_second: float
    clip: str
    clip_second: float
    sample_frame: int
    clip_frame: int
    path: str


@dataclass(frozen=True)
class Audited:
    """One sample. `values` and `p_values` by figure; `p` of the sample, `holm` over all samples (None without held-out
    clips). `informs` is the share of its frames that inform in the first book."""

    name: str
    frames: int
    seconds: float
    informs: float
    prompt: str | None
    setting: str | None
    runs: dict[str, Copy | None]
    near: NearCopy | None
    values: dict[str, int]
    p_values: dict[str, PValue] = field(default_factory=dict)
    p: float | None = None
    holm: float | None = None
    memorised: bool | None = None

    @property
    def longest(self) -> float:
        """Seconds of the longest passage that was found, exact or near."""
        found = [run.seconds for run in self.runs.values() if run is not None and run.informative > 1]
        return max([*found, self.near.seconds if self.near else 0.0], default=0.0)


@dataclass(frozen=True)
class Null:
    """The held-out windows: `values` of each figure, one a clip; `fits` the extreme-value law of each (None: none)."""

    clips: int
    frames: int
    seconds: float
    heard: bool
    kept_K: list[float] | None
    values: dict[str, list[int]]
    fits: dict[str, Gumbel | None]
    leaks: list[str]
    shared_sources: list[str]


@dataclass(frozen=True)
class Audit:
    """All of it. `verdict`: memorised, near, not or unknown; `sentence` says it. `failed` are files that could not be
    audited, with their errors. `spectrum`: for each level, runs of at least so many informative frames in 1,000 frames
    of the samples, of the held-out windows."""

    sentence: str
    verdict: str
    what: str
    pack: str
    fingerprint: str
    training: dict[str, float]
    seeds: dict[str, int]
    samples: list[Audited]
    null: Null | None
    warnings: list[str]
    drift: Drifts
    diversity: Diversity
    failed: list[dict[str, Any]]
    spectrum: dict[str, dict[str, list[float]]]
    played: list[Sample] = field(repr=False)
    ears: Ears = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        hidden = {"played", "ears"}
        return {name: _plain(getattr(self, name)) for name in self.__dataclass_fields__ if name not in hidden}


def _plain(value: Any) -> Any:
    if hasattr(value, "__dataclass_fields__"):
        return asdict(value)
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return value
