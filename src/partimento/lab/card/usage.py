"""How to load and play each kind of export: a few lines of Python that work, and the same on the command line."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import partimento
from partimento.codecs.pretrained import SHORT
from partimento.codecs.resident import RESIDENTS, read_card, spec_of
from partimento.runs import hub, playable
from partimento.tokens.spec import CodecSpec
from partimento.tokens.text import Words


@dataclass(frozen=True)
class Usage:
    """`python` and `shell` are whole programs, with the directory's name where it is meant; `apart` says what they need
    that is not in the directory."""

    python: str
    shell: str | None
    apart: tuple[str, ...] = ()


def usage(
    folder: Path, name: str, family: str, layout: str, config: Mapping[str, Any], tags: Sequence[str] = ()
) -> Usage:
    """Of the export in `folder`, which will be called `name`; `tags` of its data, the most frequent first."""
    if layout != "partimento":
        return _theirs(folder, name, layout)
    match family:
        case "codec":
            return _codec(name)
        case "restore":
            return _restore(name)
    return _player(folder, name, config, tags)


def _player(folder: Path, name: str, config: Mapping[str, Any], tags: Sequence[str]) -> Usage:
    told = playable.read(folder).description
    options: dict[str, Any] = {}
    flags: list[str] = []
    words = _words(told, config, tags)
    if words.tags:
        options["tags"], flags = list(words.tags), ["--tags", ",".join(words.tags)]
    if words.text:
        options["prompt"], flags = words.text, [*flags, "--prompt", words.text]
    options["seconds"] = 5
    apart = [*_codec_apart(CodecSpec.from_json(told["spec"]))]
    if apart:
        options["codec"], flags = "FOLDER", [*flags, "--codec", "FOLDER"]
    if "mixture" in told:
        base = told["base"]
        apart.append(
            f"The backbone {base.get('name') or Path(base['folder']).name!r} is not a part of this directory; its "
            f"weights have the sha256 {base['sha256'][:16]}..., and are looked for where they were in the training."
        )
    arguments = "".join(f", {key}={_literal(value)}" for key, value in options.items())
    python = (
        "import partimento\n\n"
        f'made = partimento.sample({_literal(name)}, "played"{arguments})\n'
        'print(made[0]["file"], made[0]["seconds"])'
    )
    shell = f"partimento sample {shlex.join([name, '--to', 'played', '--seconds', '5', *flags])}"
    return Usage(python, shell, tuple(apart))


def _codec_apart(spec: CodecSpec) -> Iterator[str]:
    """A sentence where the codec is not to be found by its name, with the codes that were learned."""
    folder = "name the folder of that one in place of FOLDER."
    if spec.codec in RESIDENTS:
        if spec_of(read_card(RESIDENTS[spec.codec])).weights != spec.weights:
            yield (
                f"The codec is a {spec.codec} whose weights have the sha256 {spec.weights[:16]}..., and not the one in "
                f"partimento {partimento.__version__}: {folder}"
            )
    elif spec.codec not in SHORT and (not hub.is_name(spec.codec) or Path(spec.codec).exists()):
        yield f"The codec {Path(spec.codec).name} is not a part of this directory, nor of the package: {folder}"


def _words(told: Mapping[str, Any], config: Mapping[str, Any], frequent: Sequence[str]) -> Words:
    """Something that the model knows: a prompt of its demos, else a tag of its own."""
    prompts = [str(prompt) for prompt in config.get("demo", {}).get("prompts") or [] if str(prompt).strip()]
    tags, knows_null = told["words"].get("tags") or [], told["null_share"] > 0 or told.get("null_trained")
    if prompts:
        return Words.parse(prompts[0])
    if tags:
        return Words((next((tag for tag in frequent if tag in tags), str(tags[0])),), "")
    if told["words"]["kind"] == "tags":
        return Words((), "")
    if frequent:  # this one spells them
        return Words((frequent[0],), "")
    return Words((), "") if knows_null else Words((), "music")


def _restore(name: str) -> Usage:
    python = (
        "from partimento.play.restoring import restore\n\n"
        f'made = restore({_literal(name)}, ["recording.wav"], "restored")\n'
        "print(made[0].file)"
    )
    return Usage(python, f"partimento restore {shlex.quote(name)} recording.wav --to restored")


def _codec(name: str) -> Usage:
    python = (
        "from partimento.audio.files import read, resample\n"
        "from partimento.codecs.codec import decode_whole, encode_whole, open_codec\n\n"
        f'sound, codec = read("recording.wav"), open_codec({_literal(name)})\n'
        "wave_1N = resample(sound.wave_CN[:1], sound.sample_rate, codec.spec.sample_rate)\n"
        "heard_1N = decode_whole(codec, encode_whole(codec, wave_1N), wave_1N.shape[1])"
    )
    return Usage(python, f"partimento codec check recording.wav --codec {shlex.quote(name)}")


def _theirs(folder: Path, name: str, layout: str) -> Usage:
    apart = ["It gives codes; the codec that they are of turns them into sound."]
    if layout == "nari":
        apart.append("These lines are of nari-labs' own program, and were not run for this card.")
        return Usage(f"from dia.model import Dia\n\nmodel = Dia.from_pretrained({_literal(name)})", None, tuple(apart))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    kind, more = (config.get("architectures") or ["AutoModel"])[0], ""
    if "auto_map" in config:
        kind, more = "AutoModelForCausalLM", ", trust_remote_code=True"
    if "audio_encoder" in config:  # a MusicGen, which has its codec within
        apart = []
    python = f"from transformers import {kind}\n\nmodel = {kind}.from_pretrained({_literal(name)}{more})"
    return Usage(python, None, tuple(apart))


def _literal(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
