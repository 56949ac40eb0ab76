"""What a run was trained on, as far as its record says it and its pack is still there: hours, licences, who to name.

A licence is read, never guessed (`tokens.licence`); what a law allows without one is for its reader to judge.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from partimento.config import DiaConfig, MotConfig, RvqConfig, parse
from partimento.errors import PartimentoError
from partimento.runs.run import Run
from partimento.tokens import licence as licences
from partimento.tokens.collection import LicenceRow, licence_rows
from partimento.tokens.pack import Pack

OBLIGATIONS = {
    "attribution": "whoever publishes what was made from it names its makers",
    "share_alike": "what is made from it is published under the same licence",
    "non_commercial": "it is not used commercially",
    "no_derivatives": "nothing that was made from it is published",
}


@dataclass(frozen=True)
class Amount:
    """Of one split."""

    hours: float
    clips: int
    sources: int

    @property
    def text(self) -> str:
        minutes = round(self.hours * 60)
        length = f"{minutes} minute{'s' * (minutes > 1)}" if minutes else "under a minute"
        length = f"{self.hours:.1f} hours" if minutes >= 120 else length
        return f"{length}, {self.clips:,} clips of {self.sources:,} sources"


@dataclass(frozen=True)
class Credit:
    """A source whose licence asks that its makers are named; `clips` were trained on."""

    source: str
    origin: str | None
    licence: str
    clips: int


@dataclass(frozen=True)
class Data:
    """`splits` and `licences` (of the clips trained on) are None where nobody knows, and `unknown` says why.
    `credits` are what the pack names, `credited` what the configuration of a sound model says."""

    name: str
    fingerprint: str | None
    identity: dict[str, Any]
    splits: dict[str, Amount] | None = None
    licences: tuple[LicenceRow, ...] | None = None
    credits: tuple[Credit, ...] = ()
    credited: tuple[str, ...] = ()
    tags: tuple[tuple[str, int], ...] = ()
    chosen: str | None = None
    unknown: str | None = None

    @property
    def asked(self) -> dict[str, float]:
        """{obligation: hours of the training clips whose licence asks for it}."""
        rows = self.licences or ()
        hours = {name: sum(row.hours for row in rows if getattr(row, name)) for name in OBLIGATIONS}
        return {name: value for name, value in hours.items() if any(getattr(row, name) for row in rows)}

    def to_json(self) -> dict[str, Any]:
        splits = None if self.splits is None else {name: vars(one) for name, one in self.splits.items()}
        rows = None if self.licences is None else [vars(row) for row in self.licences]
        told = {"name": self.name, "fingerprint": self.fingerprint, "splits": splits, "licences": rows}
        return {**told, "unknown": self.unknown}


def data_of(run: Run, heard: Mapping[str, Any] | None = None) -> Data:
    """From the record, and from the pack where the same one is still at its place. `heard` is what a codec's card says
    of its recordings, by kind: {"train", "held_out"}."""
    record, settings = run.record, run.record["config"].get("data", {})
    found = record.get("identity")
    identity: dict[str, Any] = found if isinstance(found, dict) else {}
    if settings.get("pack") is None:
        return _sound(settings, identity, heard or {})
    name, fingerprint = Path(str(settings["pack"])).name, identity.get("fingerprint")
    empty = Data(name, fingerprint, identity)
    try:
        pack = Pack.open(settings["pack"])
        if pack.fingerprint != fingerprint:
            return _without(empty, "the pack that is at its place now is another one")
        return _of_pack(empty, pack, run)
    except PartimentoError as err:
        return _without(empty, f"the pack is not at its place any more, or cannot be read ({err.code})")


def _without(empty: Data, why: str) -> Data:
    return Data(empty.name, empty.fingerprint, empty.identity, unknown=why)


def _sound(settings: dict[str, Any], identity: dict[str, Any], heard: Mapping[str, Any]) -> Data:
    """Recordings in folders: the run keeps their hashes, and neither lengths nor licences."""
    splits = {}
    for name, side in (("train", "train"), ("valid", "held_out")):
        if heard.get(side):
            count = sum(int(kind["recordings"]) for kind in heard[side].values())
            hours = sum(kind["minutes"] for kind in heard[side].values()) / 60
            splits[name] = Amount(round(hours, 4), count, count)
    places = [Path(str(folder)).name for folder in settings.get("folders", [])]
    if settings.get("pairs"):
        places.append(f"the pairs {Path(str(settings['pairs'])).name}")
    if settings.get("band_loops"):
        places.append(f"{settings['band_loops']} loops of the synthetic band")
    why = "a run on recordings keeps their hashes, and neither their lengths nor their licences"
    credited = tuple(str(line) for line in settings.get("credits") or ())
    fingerprint = identity.get("fingerprint") or identity.get("train")
    if splits:
        why = "a run on recordings does not keep their licences"
    name = " and ".join(places) or "nothing that is named"
    return Data(name, fingerprint, identity, splits or None, credited=credited, unknown=why)


def _of_pack(empty: Data, pack: Pack, run: Run) -> Data:
    config = parse(run.record["config"], name="the run's configuration")
    assert isinstance(config, RvqConfig | DiaConfig | MotConfig)
    from partimento.training.tasks.codes import selection_of

    selection = selection_of(config)
    seconds_per_frame = 1 / float(pack.spec.frame_rate)
    splits = {}
    for split in ("train", "valid"):
        try:
            clips = pack.split(split) if selection is None else selection.clips(pack, split)
        except PartimentoError as err:
            if err.code not in ("PACK008", "TAGS008"):  # an empty split is an amount
                raise
            splits[split] = Amount(0.0, 0, 0)
            continue
        hours = float(pack.clips.frames[clips].sum()) * seconds_per_frame / 3600
        splits[split] = Amount(round(hours, 4), len(clips), len({pack.clips.source[int(one)] for one in clips}))
        if split == "train":
            texts = [pack.clips.licence[int(one)] for one in clips]
            rows = licence_rows(texts, pack.clips.frames[clips] * seconds_per_frame)
            found = Counter(tag for one in clips for tag in pack.clips.tags[int(one)])
            credits = _credits(pack, [int(one) for one in clips])
    chosen = None if selection is None else ", ".join(f"{k} {v}" for k, v in selection.to_json().items() if v)
    return Data(
        empty.name,
        empty.fingerprint,
        empty.identity,
        splits,
        tuple(rows) if splits["train"].clips else (),
        credits if splits["train"].clips else (),
        tags=tuple(found.most_common()) if splits["train"].clips else (),
        chosen=chosen,
    )


def _credits(pack: Pack, clips: list[int]) -> tuple[Credit, ...]:
    """Sources of these clips whose licence asks for attribution, with what the pack says of where they come from."""
    counts: Counter[tuple[str, str, str]] = Counter()
    for clip in clips:
        text = pack.clips.licence[clip]
        known = licences.read(text)
        if known is not None and known.attribution:
            counts[pack.clips.source[clip], pack.clips.origin[clip] or "", text] += 1
    return tuple(Credit(source, origin or None, text, n) for (source, origin, text), n in sorted(counts.items()))


def attribution(credits: tuple[Credit, ...]) -> str:
    """ATTRIBUTION.tsv: a line a source."""
    head = "source\torigin\tlicence\taddress\tclips"
    rows = [head]
    for one in credits:
        known = licences.parse(one.licence)
        cells = (one.source, one.origin or "unknown", known.name, known.uri or one.licence, str(one.clips))
        rows.append("\t".join(" ".join(cell.split()) for cell in cells))
    return "\n".join(rows) + "\n"
