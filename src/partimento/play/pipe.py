"""`sample --stream`: one item as a WAV stream of 16 bits, written while it is played."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, BinaryIO

from partimento.audio.stream import pcm16
from partimento.play import provenance
from partimento.play.asked import impossible
from partimento.play.heard import hear
from partimento.play.make import asked
from partimento.play.source import Precision, Weights, open_source
from partimento.play.streaming import CHUNK_SECONDS, stream
from partimento.play.wav import Wav
from partimento.progress import Progress, Quiet


def pipe(
    run: str | Path,
    out: BinaryIO,
    *,
    continue_from: str | Path | None = None,
    weights: Weights = "ema",
    codec: str | None = None,
    device: str = "auto",
    compile: bool | None = None,
    precision: Precision = "full",
    progress: Progress | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Play one item into `out` while it is played; options as those of `sample`, of which one item must remain.

    Gives {"seconds", "first_audio" (seconds from the first step to the first new sample), "realtime" (seconds of audio
    a second of playing), "clipped", "stopped"}; Ctrl-C is an end like another, and `stopped` is True then. The comment
    in the header says what is played, as that of a file.

    Raises what `sample` raises, SAMPLE030 (more than one item), BrokenPipeError (the reader is gone).
    """
    progress = progress or Quiet()
    wanted = asked(**options)
    source = open_source(
        run, weights=weights, codec=codec, device=device, compile=compile, precision=precision, progress=progress
    )
    items = wanted.items(source.player.rule)
    if len(items) != 1:
        raise impossible(f"{len(items)} items in one stream", "one prompt, temperature, guidance and seed")
    (item,) = items
    words = source.player.require(item.words, item.guidance.scale)
    heard = None if continue_from is None else hear(Path(continue_from), source.codec, progress)
    spec, prompt_TK = source.player.spec, None if heard is None else heard.codes_TK
    prompt = 0 if prompt_TK is None else len(prompt_TK)
    frames = source.frames(wanted.seconds)
    progress.stage("play", f"{wanted.seconds:g} s: {frames} frames, {spec.seconds(frames):.3f} s, on {source.device}")
    comment = provenance.intended(source, item, wanted.seconds, heard, decoded_by=CHUNK_SECONDS)
    wav = Wav(out, spec.channels, spec.sample_rate, provenance.tags(comment))
    began, first_audio, clipped, stopped = time.perf_counter(), None, 0, False
    chunks = stream(
        source.player,
        source.codec,
        frames=frames + prompt,
        words=words,
        seed=item.seed,
        rules=item.rules,
        guidance=item.guidance,
        prompt_TK=prompt_TK,
        **source.steps(),
    )
    try:
        for samples, over in pcm16(Path("standard output"), (chunk.wave_CN for chunk in chunks)):
            wav.write(samples)
            clipped += over
            if first_audio is None and wav.samples > spec.samples(prompt):
                first_audio = time.perf_counter() - began
                progress.note(f"first audio after {first_audio:.2f} s")
            progress.update(wav.samples / spec.sample_rate, spec.seconds(frames + prompt))
    except KeyboardInterrupt:
        stopped = True
    finally:
        chunks.close()
        wav.close()
    seconds = wav.samples / spec.sample_rate
    played = max(0.0, seconds - spec.seconds(prompt))
    return {
        "seconds": seconds,
        "first_audio": first_audio,
        "realtime": played / (time.perf_counter() - began),
        "clipped": clipped,
        "stopped": stopped,
    }
