"""A pack out of foreign codes: one codec, one number of books, every input that is left out in rejects.jsonl.

The pack appears whole, by one rename; two imports of the same files are byte-identical.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from partimento import commit
from partimento.errors import PartimentoError
from partimento.progress import Progress, Quiet
from partimento.tokens import shards, writer
from partimento.tokens.clips import ClipRow
from partimento.tokens.convert import grouping, npq, npy, pt, rows, sniff
from partimento.tokens.convert.exported import read_spec
from partimento.tokens.convert.facts import Given, difference, rates_twice, spec_of, unequal
from partimento.tokens.convert.item import Facts, Item, Reject
from partimento.tokens.labelfiles import is_text
from partimento.tokens.shards import Shard
from partimento.tokens.spec import CodecSpec
from partimento.tokens.store import local

CLIPS_PER_SHARD = 256
BYTES_PER_SHARD = 64 * 2**20


@dataclass
class ImportReport:
    """What became of an import. `assumed` names what no file says; `prompts` counts the clips by where their prompt was
    found, `notes` what was odd, `rejects` by code."""

    pack: str
    kind: str
    dry_run: bool
    files: int
    clips: int = 0
    frames: int = 0
    seconds: float = 0.0
    codec: dict[str, Any] = field(default_factory=dict)
    assumed: list[str] = field(default_factory=list)
    grouped_by: str = ""
    prompts: dict[str, int] = field(default_factory=dict)
    notes: dict[str, int] = field(default_factory=dict)
    rejects: dict[str, int] = field(default_factory=dict)
    first_reject: str | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def items(source: Path, kind: str, books: int | None = None) -> Iterator[Item | Reject]:
    """Items and rejects of the files of one kind (sniff.KINDS) below `source`, in sorted order."""
    files, root = sniff.members(source, kind), _root(source)
    if kind == "npy":
        return npy.items(root, files, books)
    return {"npq": npq.items, "pt": pt.items, "rows": rows.items}[kind](root, files)


def peek(source: str | Path, kind: str = "auto", books: int | None = None) -> Facts:
    """The facts of the first clip (that has `books` books). Raises as `build_pack`, CONVERT009 where there is none."""
    source = Path(source)
    reject = None
    for one in items(source, sniff.sniff(source) if kind == "auto" else kind, books):
        if isinstance(one, Reject):
            reject = reject or one
        elif books in (None, one.facts.codebooks):
            return one.facts
    raise _nothing(source, reject, f"none has {books} books" if books else None)


def exported_spec(source: str | Path, kind: str) -> CodecSpec | None:
    """The codec that `pack export` recorded beside or in the files; None for files of other origin. Raises as
    `build_pack`."""
    return read_spec(_root(Path(source)), kind, sniff.members(source, kind))


def build_pack(
    source: str | Path,
    to: str | Path,
    *,
    kind: str = "auto",
    given: Given | None = None,
    source_by: str = "auto",
    dry_run: bool = False,
    progress: Progress | None = None,
) -> ImportReport:
    """Import the codes below `source` into a new pack at `to`; `kind` is one of sniff.KINDS or "auto".

    The codec is `given.spec`, or what `pack export` wrote beside the files, or what the files say of themselves, and
    then its name is "unknown". The first clip (or `given`) decides what all must be; others become rejects. A clip's
    source is the one in its labels, else found as grouping.sources does by `source_by`.

    Raises SYS004, CONVERT001 (what is it), CONVERT002 (export.json), PACK013 (labels), CONVERT004 (rates unknown),
    CONVERT007 (an export, and other rates), CONVERT009 (nothing is left), CONVERT012 (`to` exists), FAR008 (it is a
    URL), SYS002.
    """
    source, to, given, progress = Path(source), local(to), given or Given(), progress or Quiet()
    if to.exists() and not dry_run:
        raise PartimentoError(
            "CONVERT012", f"{to} exists", where=str(to), next=f"choose a new folder with --to, or delete {to}"
        )
    kind = sniff.sniff(source) if kind == "auto" else kind
    files = sniff.members(source, kind)
    if given.spec is None:
        given = replace(given, spec=read_spec(_root(source), kind, files))
        if given.spec is not None:
            rates_twice(given, "the export")
    report = ImportReport(str(to), kind, dry_run, len(files))
    progress.stage("import", f"{len(files)} file(s) of the kind {kind} become a pack")
    if dry_run:
        _Import(None, source, given, report).run(source_by, progress)
        return report
    with commit.folder(to) as folder:
        work = _Import(folder, source, given, report)
        clips = work.run(source_by, progress)
        assert work.spec is not None
        rejects = [reject.to_json() for reject in work.rejects]
        inputs = {"import": _inputs(report, _root(source), files)}
        writer.finish(folder, work.spec, clips, work.shards, rejects, inputs=inputs)
    return report


class _Import:
    """One import. Without a folder nothing is written, and all else happens."""

    def __init__(self, folder: Path | None, source: Path, given: Given, report: ImportReport) -> None:
        self.spec: CodecSpec | None = given.spec
        self.shards: list[Shard] = []
        self.rejects: list[Reject] = []
        self._folder = folder
        self._source = source
        self._given = given
        self._report = report
        self._names: set[str] = set()
        self._rows: list[ClipRow] = []
        self._held: list[NDArray[np.uint16]] = []
        self._frames = 0  # in the shard that is being filled
        self._leader = "the codec"
        self._notes: Counter[str] = Counter()
        self._prompts: Counter[str] = Counter()

    def run(self, source_by: str, progress: Progress) -> list[ClipRow]:
        books = self._given.books or (self.spec.codebooks if self.spec else None)
        file, done = "", 0
        for one in items(self._source, self._report.kind, books):
            if one.file.split(", row ")[0] != file:
                file, done = one.file.split(", row ")[0], done + 1
                progress.update(done, self._report.files, clips=len(self._rows), rejects=len(self.rejects))
            if isinstance(one, Reject):
                self.rejects.append(one)
                continue
            try:
                self._check(one)
            except PartimentoError as err:
                if err.code == "CONVERT004":  # the caller's to mend, not this file's
                    raise
                self.rejects.append(Reject.of(one.file, err))
                continue
            self._keep(one)
        self._close()
        if not self._rows:
            raise _nothing(self._source, self.rejects[0] if self.rejects else None)
        return self._finish(source_by)

    def _check(self, item: Item) -> None:
        """Raise what makes this item a reject (CONVERT005, CONVERT006, CONVERT014); CONVERT004 as `spec_of` does."""
        frames, books = item.codes_TK.shape
        if not frames:
            raise unequal("it holds no frames")
        if self._given.books not in (None, books):
            raise unequal(f"it has {books} books, and {self._given.books} are wanted")
        spec = self.spec or spec_of(item.facts, self._given)
        differs = difference(item.facts, spec, self._given)
        if differs:
            raise unequal(f"it has {differs[0]}, and {self._leader} {differs[1]}")
        samples = item.labels.samples
        if samples is not None and samples > spec.samples(frames):
            raise unequal(f"its {frames} frames do not hold the {samples} samples that its labels tell of")
        if item.clip in self._names:
            raise _unnamed(f"another clip is called {item.clip!r}")
        labels = item.labels
        texts = (item.clip, labels.source, labels.caption, labels.licence, labels.origin, labels.sha256, *labels.tags)
        if not item.clip or not all(text is None or is_text(text) for text in texts):
            raise _unnamed("its name or a label of it is empty, or not text that can be kept")
        try:
            shards.check_range(item.codes_TK, spec.cardinalities, where=item.file)
        except PartimentoError as err:
            raise PartimentoError("CONVERT006", "a number is not a code of this codec", why=err.message) from err
        if self.spec is None:
            told = {"sample_rate": self._given.sample_rate, "frame_rate": self._given.frame_rate}
            told["cardinalities"] = self._given.cardinality
            self._report.assumed = sorted(name for name in item.facts.assumed if told[name] is None)
            self.spec, self._leader = spec, f"the first clip, {item.file},"

    def _keep(self, item: Item) -> None:
        assert self.spec is not None
        codes_TK = np.ascontiguousarray(item.codes_TK, shards.CODES)
        held_bytes = sum(codes.nbytes for codes in self._held)
        if self._held and (len(self._held) == CLIPS_PER_SHARD or held_bytes + codes_TK.nbytes > BYTES_PER_SHARD):
            self._close()
        labels, frames = item.labels, len(codes_TK)
        self._rows.append(
            ClipRow(
                clip=item.clip,
                source=labels.source or "",
                shard=len(self.shards),
                first_frame=self._frames,
                frames=frames,
                samples=labels.samples if labels.samples is not None else self.spec.samples(frames),
                sha256=labels.sha256 or hashlib.sha256(codes_TK.tobytes()).hexdigest(),
                loudness=labels.loudness,
                peak=labels.peak,
                tags=labels.tags,
                caption=labels.caption,
                licence=labels.licence,
                origin=labels.origin,
            )
        )
        self._names.add(item.clip)
        self._held.append(codes_TK)
        self._frames += frames
        self._notes.update(item.notes)
        self._prompts[labels.found if labels.tags or labels.caption else "none"] += 1

    def _close(self) -> None:
        if self._held:
            assert self.spec is not None
            file = writer.shard_file(len(self.shards))
            if self._folder is None:
                self.shards.append(Shard(file, 0, self._frames, len(self._held), ""))
            else:
                self.shards.append(shards.write(self._folder, file, self._held, self.spec.cardinalities))
        self._held, self._frames = [], 0

    def _finish(self, source_by: str) -> list[ClipRow]:
        """The rows with their sources; fills the report."""
        assert self.spec is not None
        report = self._report
        unnamed = [row.clip for row in self._rows if not row.source]
        found, how = grouping.sources(unnamed, source_by)
        source_of = dict(zip(unnamed, found, strict=True))
        clips = [replace(row, source=row.source or source_of[row.clip]) for row in self._rows]
        ways = [f"labels: {len(clips) - len(unnamed)} clips"] if len(unnamed) < len(clips) else []
        report.grouped_by = "; ".join(ways + ([how] if unnamed else []))
        report.clips, report.frames = len(clips), sum(row.frames for row in clips)
        report.seconds = round(sum(row.samples for row in clips) / self.spec.sample_rate, 3)
        report.codec = self.spec.to_json()
        for kind, count in sniff.kinds(self._source).items() if self._source.is_dir() else ():
            if kind != report.kind:
                self._notes[f"a file of the kind {kind} was passed over"] = count
        report.prompts, report.notes = dict(sorted(self._prompts.items())), dict(sorted(self._notes.items()))
        report.rejects = dict(sorted(Counter(reject.code for reject in self.rejects).items()))
        if self.rejects:
            report.first_reject = f"{self.rejects[0].file}: {self.rejects[0].reason}"
        return clips


def _inputs(report: ImportReport, root: Path, files: Sequence[Path]) -> dict[str, Any]:
    """What pack.json says of where the codes come from: no clock, no paths of this machine."""
    listing = "\n".join(f"{path.relative_to(root).as_posix()} {path.stat().st_size}" for path in files)
    return {
        "kind": report.kind,
        "files": {
            "count": len(files),
            "sha256_of_names_and_sizes": hashlib.sha256(listing.encode("utf-8", "surrogateescape")).hexdigest(),
        },
        **{name: getattr(report, name) for name in ("assumed", "grouped_by", "prompts", "notes")},
    }


def _root(source: Path) -> Path:
    return source if source.is_dir() else source.parent


def _unnamed(why: str) -> PartimentoError:
    return PartimentoError("CONVERT014", "it cannot be named in a pack", why=why)


def _nothing(source: Path, reject: Reject | None, why: str | None = None) -> PartimentoError:
    return PartimentoError(
        "CONVERT009",
        "nothing is left to import: every clip was rejected",
        where=str(source) if reject is None else f"{source}, {reject.file}",
        why=why if reject is None else f"{reject.code}: {reject.reason}",
        next="partimento explain " + (reject.code if reject else "CONVERT001"),
    )
