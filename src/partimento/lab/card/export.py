"""`weights export`: a run leaves as a directory that is ready for a model hub, whole or not at all.

An export that is there already keeps its weights: the same command writes its documents again, and what was edited by
hand in them stays.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from partimento import commit
from partimento.errors import PartimentoError
from partimento.lab.card.data import attribution
from partimento.lab.card.known import PLACES, Known, gather
from partimento.lab.card.readme import ATTRIBUTION, readme
from partimento.lab.report import report
from partimento.progress import Progress, Quiet
from partimento.runs import exported, published
from partimento.runs.chosen import chosen
from partimento.runs.exported import Exported, Listed
from partimento.runs.run import Run
from partimento.training.publish import Layout, export_weights

CARD, FRESH, REPORT, SETTINGS, GIT = (
    "README.md",
    "README.generated.md",
    "report.html",
    "training.json",
    ".gitattributes",
)
STAGING = ".staging"
LARGE = ("*.safetensors", "*.wav", "*.flac", "*.png", "*.model")
SUFFIXES = tuple(one.removeprefix("*") for one in LARGE)
LFS_BYTES = 10_000_000  # what is larger a hub takes only as a large file
MOST_LOOKED_AT = 64 << 20


def publish(
    source: str | Path,
    to: str | Path,
    *,
    layout: Layout = "partimento",
    weights: Literal["ema", "raw"] = "ema",
    licence: str | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write the directory `to` of the run `source` (its best checkpoint, else its newest): weights, configuration, the
    card README.md, report.html, ATTRIBUTION.tsv where the data asks for it, .gitattributes, and partimento.json with
    the hash of each. `licence` is what you give the weights, a name as the hub has them ("cc-by-4.0"); without it the
    card says unknown. Of a folder of weights, which knows no run, it is the weights alone.

    Where `to` is an export of the same weights, its documents are written again: a README.md that was edited stays, and
    the new one lies beside it as README.generated.md.

    Returns {"to", "layout", "tensors", "parameters", "source", "card" (written, kept or none), "notes"}.

    Raises WEIGHTS008 (something else is at `to`), PUB001 and PUB002 (the export that is there was changed), PUB004 (not
    the name of a licence), and what `training.publish.export_weights` raises.
    """
    progress, source, to = progress or Quiet(), Path(source), Path(to)
    _check_licence(licence)
    if not (source / "run.json").is_file():
        told = export_weights(source, to, layout=layout, weights=weights, licence=licence, progress=progress)
        progress.note("there is no card: it is made of a run, and these are weights without one")
        return {**told, "card": "none", "notes": []}
    run = Run.open(source)
    path = chosen(run, progress.note)
    if (to / exported.RECORD).is_file():
        return _again(run, path, to, layout, weights, licence, progress)
    published.require_absent(to)
    return _whole(run, to, layout, weights, licence, progress)


def _whole(
    run: Run, to: Path, layout: Layout, weights: Literal["ema", "raw"], licence: str | None, progress: Progress
) -> dict[str, Any]:
    with commit.folder(to) as tmp:
        inner = tmp / STAGING / to.name  # weights are committed as a folder, and some keep its name
        told = export_weights(run.path, inner, layout=layout, weights=weights, licence=licence, progress=progress)
        for item in sorted(inner.iterdir()):
            item.rename(tmp / item.name)
        shutil.rmtree(tmp / STAGING)
        origin = {**told["source"], "manifest_sha256": _manifest(run, told["source"]["checkpoint"])}
        known = _known(run, tmp, to.name, layout, {**told, "source": origin}, licence, progress)
        names = (file.relative_to(tmp).as_posix() for file in sorted(tmp.rglob("*")) if file.is_file())
        for name, content in _documents(known, {name: exported.listed(tmp / name) for name in names}, run).items():
            commit.text(tmp / name, content)
        found = exported.seal(tmp, known.family, layout, origin, {**known.to_json(), "tensors": told["tensors"]})
    notes = _places(replace(found, folder=to), run)
    return {**told, **_told(to, found, notes, "written", progress)}


def _again(
    run: Run,
    path: Path,
    to: Path,
    layout: Layout,
    weights: Literal["ema", "raw"],
    licence: str | None,
    progress: Progress,
) -> dict[str, Any]:
    """The documents of an export of these very weights. Raises WEIGHTS008 for others, PUB001, PUB002."""
    found = exported.read(to)
    wanted = {"run": run.id, "checkpoint": path.name, "weights": weights, "manifest_sha256": _manifest(run, path.name)}
    if found.layout != layout or {name: found.source.get(name) for name in wanted} != wanted:
        there = [found.source.get(name) for name in ("run", "checkpoint", "weights")]
        raise PartimentoError(
            "WEIGHTS008",
            f"{to} holds the export of other weights",
            where=str(to),
            why=f"{', '.join(map(str, there))} for {found.layout}; asked for are {run.id}, {path.name}, {weights} for "
            f"{layout}",
            next="choose another folder with --to",
        )
    exported.verify(found)
    licence = licence if licence is not None else found.card.get("licence")
    known = _known(run, to, to.name, layout, {**found.card, "source": found.source}, licence, progress)
    state, notes, documents = exported.edited(found), [], dict(found.documents)
    card = "written"
    for name, content in _documents(known, found.files, run).items():
        if state.get(name) == "changed" and (to / name).read_bytes() != content.encode("utf-8"):
            notes.append(f"{name} was edited by hand, and stays as it is")
            if name != CARD:
                continue
            name, card = FRESH, "kept"
            notes[-1] += f"; the new one is {FRESH}"
        commit.text(to / name, content)
        documents[name] = exported.listed(to / name)
    exported.write(replace(found, card={**known.to_json(), "tensors": found.card.get("tensors")}, documents=documents))
    return _told(to, found, notes, card, progress)


def _told(to: Path, found: Exported, notes: list[str], card: str, progress: Progress) -> dict[str, Any]:
    for note in notes:
        progress.note(note)
    return {
        "to": str(to),
        "layout": found.layout,
        "tensors": found.card.get("tensors"),
        "parameters": found.card.get("parameters"),
        "source": {name: value for name, value in found.source.items() if name != "manifest_sha256"},
        "card": card,
        "notes": notes,
    }


def _known(
    run: Run, folder: Path, name: str, layout: str, told: Mapping[str, Any], licence: str | None, progress: Progress
) -> Known:
    progress.stage("card", "what is known of the run, its data and its figures")
    known = gather(run, folder, name, layout, told, licence)
    if known.data.unknown is not None:
        progress.note(f"of the data the card says little: {known.data.unknown}")
    for line in known.usage.apart:
        progress.note(line)
    if licence is None:
        progress.note("the card says that the licence is unknown: --licence NAME gives the weights one")
    return known


def _documents(known: Known, files: Listed, run: Run) -> dict[str, str]:
    """What people read, by the names of the files."""
    with tempfile.TemporaryDirectory(prefix="partimento-report-") as place:
        page = report(run.path, Path(place) / REPORT).read_text(encoding="utf-8")
    found = {
        REPORT: page,
        SETTINGS: commit.record_bytes(known.config).decode("utf-8"),
        GIT: _large({name: one["bytes"] for name, one in files.items()} | {REPORT: len(page.encode("utf-8"))}),
    }
    if known.data.credits:
        found[ATTRIBUTION] = attribution(known.data.credits)
    return {**found, CARD: readme(known, files)}


def _large(sizes: Mapping[str, int]) -> str:
    """.gitattributes: what git keeps as large files. Text above the hub's limit is named."""
    names = [*LARGE, *(name for name, size in sizes.items() if size > LFS_BYTES and not name.endswith(SUFFIXES))]
    return "".join(f"{name} filter=lfs diff=lfs merge=lfs -text\n" for name in sorted(names))


def _places(found: Exported, run: Run) -> list[str]:
    """Which files name folders of this machine."""
    homes = {str(place) for place in (run.path.resolve().parent, Path.home(), *_used(run)) if len(place.parts) > 1}
    texts = [name for name in (*found.files, *found.documents) if name.endswith((".json", ".html", ".md", ".tsv"))]
    named = [
        name
        for name in texts
        if (found.folder / name).stat().st_size < MOST_LOOKED_AT
        and any(home in (found.folder / name).read_text(encoding="utf-8", errors="replace") for home in homes)
    ]
    if not named:
        return []
    verb = "name" if len(named) > 1 else "names"
    return [f"{', '.join(sorted(named))} {verb} folders of this machine: look there before you publish"]


def _used(run: Run) -> Iterator[Path]:
    """Folders that the configuration names."""
    for section, names in PLACES.items():
        for name in names:
            place = run.record["config"].get(section, {}).get(name)
            if isinstance(place, str) and Path(place).exists():
                yield Path(place).resolve()


def _manifest(run: Run, name: str) -> str:
    return commit.sha256(run.checkpoints_path / name / "manifest.json")


def _check_licence(licence: str | None) -> None:
    if licence is not None and not re.fullmatch(r"[A-Za-z][\w .+()/,-]{0,99}", licence):
        raise PartimentoError(
            "PUB004",
            f"{licence!r} cannot be the name of a licence",
            why="a name has letters, digits, blanks and - . + ( ) / and 100 of them at most",
            next="give its name as the hub has it: --licence cc-by-4.0",
        )
