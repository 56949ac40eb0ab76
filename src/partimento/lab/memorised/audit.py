"""`memorised`: whether what was played stands in the training clips, and how sure that is.

Each sample has some figures: its longest run of frames that a training clip has too (first book, first two, all books;
`search`) and its best near-copy (`align`). Each is ranked among the same figures of held-out clips (`held`, `pvalues`).
A sample's p-value is the smallest of its figures', times their number; over the samples it is Holm's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from partimento.errors import PartimentoError
from partimento.lab.memorised import held as nulls
from partimento.lab.memorised import pvalues, samples
from partimento.lab.memorised.audited import (
    COPY_SECONDS,
    LEVEL,
    NEAR,
    Audit,
    Audited,
    Copy,
    NearCopy,
    Null,
    level_name,
)
from partimento.lab.memorised.diversity import diversity
from partimento.lab.memorised.drift import drifts
from partimento.lab.memorised.ears import Ears
from partimento.lab.memorised.frames import surprise
from partimento.lab.memorised.held import Held
from partimento.lab.memorised.index import Queries
from partimento.lab.memorised.samples import Gathered, Sample
from partimento.lab.memorised.search import Copied, Found, Near, search
from partimento.lab.memorised.text import told, warnings
from partimento.progress import Progress, Quiet
from partimento.tokens.pack import Pack


def memorised(
    *paths: str | Path,
    against: str | Path | None = None,
    to: str | Path | None = None,
    codec: str | None = None,
    progress: Progress | None = None,
) -> Audit:
    """Audit a run (its newest demos, against its own pack), or files and folders of audio and codes `against` a pack.

    `to` is the file of an HTML page; `codec` opens the pack's codec where the name that the pack gives does not.
    A file that cannot be audited is in `failed`, with its error. Raises LAB041 (nothing to audit, or no pack named),
    LAB042 (the run learned from another pack), LAB043 (the run has played nothing), LAB046 (no file could be audited),
    PACK008 (no training split), PACK009 (the codec), RUN001, RUN002, SYS004, and what a damaged pack raises.
    """
    progress = progress or Quiet()
    gathered = samples.gather(paths)
    pack = _pack(gathered, against)
    train = pack.split("train")
    ears = Ears(pack.spec, codec)
    played, failed = _read(gathered, pack, ears, progress)
    wanted = min(len(one.codes_TK) for one in played)
    heard = any(one.heard for one in played)
    progress.stage("held out", "held-out clips are cut to the samples' length" + (", and heard as they are" * heard))
    held = nulls.hold_out(pack, wanted, ears.again if heard else None)
    progress.stage("search", "the training clips stream past the samples and the held-out clips")
    queries = Queries([*(one.codes_TK for one in played), *held.codes], surprise(pack, train))
    found = search(pack, train, queries, progress)
    audit = _judged(gathered, pack, ears, played, failed, held, queries, found)
    if to is not None:
        from partimento.lab.memorised.page import page

        page(audit, pack, to)
    return audit


def _pack(gathered: Gathered, against: str | Path | None) -> Pack:
    """The pack that is named, or the run's own, which has to be the one that it learned from."""
    if against is not None:
        return Pack.open(against)
    path = gathered.run.record["config"].get("data", {}).get("pack") if gathered.run else None
    if gathered.run is None or path is None:
        raise PartimentoError(
            "LAB041",
            "no pack is named to hold the samples against",
            why="only a run of codes knows the pack that it learned from",
            next="partimento memorised FILE --against PACK",
        )
    pack = Pack.open(path)
    known = (gathered.run.record.get("identity") or {}).get("fingerprint")
    if known is not None and known != pack.fingerprint:
        raise PartimentoError(
            "LAB042",
            "the pack is not the one that the run learned from",
            where=str(path),
            why=f"its fingerprint is {pack.fingerprint[:12]}, and the run recorded {str(known)[:12]}",
            next=f"partimento memorised {gathered.run.path} --against PACK",
        )
    return pack


def _read(gathered: Gathered, pack: Pack, ears: Ears, progress: Progress) -> tuple[list[Sample], list[dict[str, Any]]]:
    progress.stage("read", "samples become codes of the pack's codec")
    played: list[Sample] = []
    failed: list[dict[str, Any]] = []
    first: PartimentoError | None = None
    for number, wanted in enumerate(gathered.wanted, 1):
        try:
            played.append(samples.read(wanted, pack.spec, ears.hear))
        except PartimentoError as err:
            if err.code in ("PACK009", "CODEC001"):  # no sample can be heard
                raise
            failed.append({"name": wanted.name, "error": err.to_json()})
            first = first or err
        progress.update(number, len(gathered.wanted), failed=len(failed))
    if not played:
        raise PartimentoError(
            "LAB046",
            f"none of the {len(gathered.wanted)} files could be audited",
            where=failed[0]["name"],
            why=str(failed[0]["error"]["message"]),
            next=f"partimento explain {failed[0]['error']['code']}",
        ) from first
    return played, failed


def _judged(
    gathered: Gathered,
    pack: Pack,
    ears: Ears,
    played: list[Sample],
    failed: list[dict[str, Any]],
    held: Held,
    queries: Queries,
    found: Found,
) -> Audit:
    spec, count = pack.spec, len(played)
    names = {books: level_name(books, spec.codebooks) for books in found.runs}
    values_FQ = {
        names[books]: [0 if run is None else run.informative for run in runs] for books, runs in found.runs.items()
    }
    values_FQ[NEAR] = [0 if one is None else one.aligned.score for one in found.near]
    null = _null(pack, held, {name: values[count:] for name, values in values_FQ.items()}, found.near[count:])
    informs_N = queries.surprise.informs(queries.codes_NK, queries.starts[:-1], 1)
    audited = [
        Audited(
            name=sample.name,
            frames=len(sample.codes_TK),
            seconds=spec.seconds(len(sample.codes_TK)),
            informs=float(informs_N[queries.starts[number] : queries.starts[number + 1]].mean()),
            prompt=sample.prompt,
            setting=sample.setting,
            runs={names[books]: _copy(pack, runs[number], books) for books, runs in found.runs.items()},
            near=_near(pack, found.near[number]),
            values={name: values[number] for name, values in values_FQ.items()},
        )
        for number, sample in enumerate(played)
    ]
    judged = audited if null is None else _held_against(audited, null)
    verdict, sentence = told(judged, null)
    codes = [one.codes_TK for one in played]
    return Audit(
        sentence=sentence,
        verdict=verdict,
        what=gathered.what,
        pack=pack.name,
        fingerprint=pack.fingerprint,
        training={"clips": found.clips, "frames": found.frames, "hours": spec.seconds(found.frames) / 3600},
        seeds={names[books]: seed for books, seed in found.seeds.items()},
        samples=judged,
        null=null,
        warnings=warnings(judged, null, sum(found.crowded.values())),
        drift=drifts(codes, held.codes, float(spec.frame_rate)),
        diversity=diversity(
            codes, [one.prompt for one in played], [one.setting for one in played], held.codes, spec.cardinality
        ),
        failed=failed,
        spectrum={names[books]: _spectrum(table_QL, queries, count) for books, table_QL in found.spectrum_QL.items()},
        played=played,
        ears=ears,
    )


def _held_against(samples: list[Audited], null: Null) -> list[Audited]:
    """The samples with their p-values."""
    ranked = []
    for one in samples:
        times = max(1.0, one.frames / null.frames)
        p_values = {
            name: pvalues.pvalue(value, null.values[name], null.fits[name], times) for name, value in one.values.items()
        }
        p = min(1.0, len(p_values) * min(value.p for value in p_values.values()))
        ranked.append((replace(one, p_values=p_values), p))
    holm = pvalues.holm([p for _, p in ranked])
    return [
        replace(one, p=p, holm=sure, memorised=sure <= LEVEL and one.longest >= COPY_SECONDS)
        for (one, p), sure in zip(ranked, holm, strict=True)
    ]


def _null(pack: Pack, held: Held, values: dict[str, list[int]], near: Sequence[Near | None]) -> Null | None:
    if not held.clips:
        return None
    return Null(
        clips=len(held.clips),
        frames=held.frames,
        seconds=pack.spec.seconds(held.frames),
        heard=held.kept_K is not None,
        kept_K=held.kept_K,
        values=values,
        fits={name: pvalues.fit(of) for name, of in values.items()},
        leaks=[held.names[number] for number in nulls.leaks(list(near), held.frames)],
        shared_sources=held.shared_sources,
    )


def _copy(pack: Pack, run: Copied | None, books: int) -> Copy | None:
    if run is None:
        return None
    seconds = pack.spec.seconds
    return Copy(
        books=books,
        frames=run.frames,
        informative=run.informative,
        seconds=seconds(run.frames),
        sample_second=seconds(run.sample_first),
        clip=pack.clips.clip[run.clip],
        clip_second=seconds(run.clip_first),
        clip_frame=run.clip_first,
        sample_frame=run.sample_first,
    )


def _near(pack: Pack, near: Near | None) -> NearCopy | None:
    if near is None:
        return None
    one, seconds = near.aligned, pack.spec.seconds
    return NearCopy(
        score=one.score,
        matches=one.matches,
        mismatches=one.mismatches,
        gaps=one.gaps,
        same=sum(step in "=-" for step in one.path) / len(one.path),
        seconds=seconds(one.sample_last - one.sample_first),
        sample_second=seconds(one.sample_first),
        clip=pack.clips.clip[near.clip],
        clip_second=seconds(one.clip_first),
        sample_frame=one.sample_first,
        clip_frame=one.clip_first,
        path=one.path,
    )


def _spectrum(table_QL: NDArray[np.int64], queries: Queries, count: int) -> dict[str, list[float]]:
    """Runs of at least 1, 2, ... informative frames in 1,000 frames; as long as anything is there."""
    sides = {}
    frames_Q = np.diff(queries.starts)
    for name, part in (("samples", slice(0, count)), ("held out", slice(count, None))):
        at_least_L = np.cumsum(table_QL[part].sum(axis=0)[::-1])[::-1][1:]
        frames = int(frames_Q[part].sum())
        sides[name] = [float(1000 * value / frames) for value in at_least_L[at_least_L > 0]] if frames else []
    return sides
