"""What is audited: the demos of a run, audio files, files of codes; each becomes codes of the pack's codec."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from partimento import commit
from partimento.audio import files
from partimento.audio.files import AUDIO_SUFFIXES
from partimento.errors import PartimentoError
from partimento.runs import demos as sheet
from partimento.runs.run import Run
from partimento.tokens import npq
from partimento.tokens.spec import CodecSpec

CODE_SUFFIXES = (".npq", ".npq1", ".npq2", ".npy")
KINDS = {*CODE_SUFFIXES, *AUDIO_SUFFIXES}
SHORTEST_SECONDS = 0.5
"""A sample that is shorter holds nothing that anybody would call a copy."""

Hear = Callable[[NDArray[np.float32], int], NDArray[np.uint16]]
"""(wave [C, N], sample rate) -> codes [T, K]."""


@dataclass(frozen=True)
class Wanted:
    """A file to audit. `skip_seconds` of it were given to the model; `prompt` is what it was told, `setting` how it
    played (None: not known)."""

    path: Path
    name: str
    skip_seconds: float = 0.0
    prompt: str | None = None
    setting: str | None = None

    @property
    def is_audio(self) -> bool:
        return self.path.suffix.lower() not in CODE_SUFFIXES


@dataclass(frozen=True)
class Sample:
    """What was played, as codes [T, K] of the pack's codec."""

    name: str
    codes_TK: NDArray[np.uint16]
    heard: bool
    prompt: str | None = None
    setting: str | None = None


@dataclass(frozen=True)
class Gathered:
    """`run` where one was given, `what` says in words what is audited."""

    wanted: list[Wanted]
    run: Run | None
    what: str


def gather(paths: Sequence[str | Path]) -> Gathered:
    """Find the files: of a run the newest demos, of a folder all audio and codes below it.

    Raises LAB041 (nothing to audit, or a run together with other things), LAB043 (a run that has played nothing),
    SYS004 (no such path), RUN002, TRAIN070 (a damaged record).
    """
    given = [Path(path) for path in paths]
    runs = [path for path in given if (path / "run.json").is_file()]
    if len(given) == 1 and runs:
        run = Run.open(runs[0])
        folder, wanted = _newest(run)
        return Gathered(wanted, run, f"the {len(wanted)} demos of {run.id}, {folder.name}")
    if runs:
        raise PartimentoError(
            "LAB041",
            "a run is audited by itself",
            where=str(runs[0]),
            why="its demos are held against its own pack, and other files against the pack that is named",
            next=f"partimento memorised {shlex.quote(str(runs[0]))}",
        )
    found = [one for path in given for one in _below(path)]
    if not found:
        raise PartimentoError(
            "LAB041",
            "there is nothing to audit",
            where=str(given[0]) if given else None,
            why=f"neither audio files nor files of codes ({', '.join(CODE_SUFFIXES)}) are there",
            next="partimento memorised RUN",
        )
    return Gathered(found, None, f"{len(found)} file{'' if len(found) == 1 else 's'}")


def _newest(run: Run) -> tuple[Path, list[Wanted]]:
    folders = [path for path in sorted(run.demos_path.glob("step-*/")) if not path.name.endswith(commit.TMP)]
    if folders:
        wanted = [_demo(folders[-1], item) for item in sheet.read(folders[-1]).items if _is_played(item)]
        if wanted:
            return folders[-1], wanted
    raise PartimentoError(
        "LAB043",
        f"{run.id} has played nothing that could be audited",
        where=str(run.demos_path),
        why=f"a run of the family {run.record['family']} keeps no demos of codes that it played, or has none yet",
        next=f"partimento sample {shlex.quote(str(run.path))} --to samples",
    )


def _is_played(item: dict[str, Any]) -> bool:
    return item.get("kind", "played") in ("played", "continuation") and Path(item["file"]).suffix in AUDIO_SUFFIXES


def _demo(folder: Path, item: dict[str, Any]) -> Wanted:
    words = item.get("words") or {}
    told = [*(words.get("tags") or []), words.get("text") or ""] if isinstance(words, dict) else []
    skip = item.get("prompt_seconds")
    setting = ", ".join(f"{key} {item.get(key)}" for key in ("kind", "weights", "temperature", "guidance"))
    return Wanted(
        folder / Path(item["file"]).name,
        Path(item["file"]).name,
        float(skip) if isinstance(skip, int | float) else 0.0,
        ", ".join(str(one) for one in told if one) or "nothing",
        setting,
    )


def _below(path: Path) -> list[Wanted]:
    """The audio and the codes at or below a path, sorted; hidden names are passed over."""
    if path.is_file():
        return [Wanted(path, path.name)]
    if not path.is_dir():
        raise PartimentoError("SYS004", f"{path} does not exist", next="check the path")
    found = []
    for folder, inside, names in os.walk(path):
        inside[:] = [name for name in inside if not name.startswith(".")]
        kept = (name for name in names if Path(name).suffix.lower() in KINDS and not name.startswith("."))
        found += [Path(folder) / name for name in kept]
    return [Wanted(one, one.relative_to(path).as_posix()) for one in sorted(found)]


def read(wanted: Wanted, spec: CodecSpec, hear: Hear) -> Sample:
    """The codes of one file. Raises what reading audio raises, the NPQ errors, LAB044 (codes of another codec, or a
    file that holds none) and LAB045 (too short)."""
    if wanted.is_audio:
        audio = files.read_isolated(wanted.path)
        codes_TK = hear(audio.wave_CN, audio.sample_rate)
    else:
        codes_TK = _codes(wanted.path, spec)
    codes_TK = codes_TK[round(wanted.skip_seconds * float(spec.frame_rate)) :]
    if spec.seconds(len(codes_TK)) < SHORTEST_SECONDS:
        raise PartimentoError(
            "LAB045",
            "a sample is too short to be audited",
            where=str(wanted.path),
            why=f"{spec.seconds(len(codes_TK)):.2f} s, and {SHORTEST_SECONDS} s are needed",
            next="partimento sample RUN --to samples --seconds 10",
        )
    return Sample(wanted.name, codes_TK, wanted.is_audio, wanted.prompt, wanted.setting)


def _codes(path: Path, spec: CodecSpec) -> NDArray[np.uint16]:
    """Codes [T, K] of an NPQ file or a .npy array."""
    try:
        if path.suffix.lower() == ".npy":
            codes_TK = np.load(path, allow_pickle=False)
        else:
            codes_TK = npq.read(path).codes_TK
    except (OSError, ValueError, EOFError) as err:
        raise _not_codes(path, str(err)) from err
    if not isinstance(codes_TK, np.ndarray) or codes_TK.dtype.kind not in "iu":
        raise _not_codes(path, "it holds no array of integers")
    if codes_TK.ndim != 2 or codes_TK.shape[1] != spec.codebooks:
        raise _not_codes(path, f"codes of shape {codes_TK.shape} are not [T, {spec.codebooks}]")
    if len(codes_TK) and ((codes_TK < 0).any() or (codes_TK.max(axis=0) >= np.asarray(spec.cardinalities)).any()):
        raise _not_codes(path, "it holds codes that the pack's books do not have")
    return codes_TK.astype(np.uint16)


def _not_codes(path: Path, why: str) -> PartimentoError:
    return PartimentoError(
        "LAB044",
        f"{path.name} does not hold codes of the pack's codec",
        where=str(path),
        why=why,
        next="encode the sound with the pack's codec, or give the audio itself",
    )
