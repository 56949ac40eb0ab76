"""Audio while it is played: the same codes and samples as at once, and leaving in the middle."""

from __future__ import annotations

import io
import json
import os
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from playable import WINDOW, make_run, player_of, toy_spec

from partimento.audio import files
from partimento.codecs.codec import decode_stream, decode_whole, open_codec
from partimento.errors import PartimentoError
from partimento.play import again, play_codes, sample, stream, streaming
from partimento.play.pipe import pipe
from partimento.play.wav import UNKNOWN, Wav, comment
from partimento.sampling.guidance import Guidance
from partimento.sampling.rules import Rules
from partimento.sampling.sheet import Ending
from partimento.tokens.text import Words

TECHNO = Words(("techno",))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs"), "d", "dia", ending=Ending("never")).path


@pytest.mark.parametrize("family", ["rvq", "dia"])
@pytest.mark.parametrize("prompt", [0, 30])
def test_pieces_joined_are_what_is_played_at_once(family: str, prompt: int) -> None:
    player, codec = player_of(family, ending=Ending("never")), open_codec()
    torch.manual_seed(0)
    prompt_TK = torch.randint(0, 1024, (prompt, 9)) if prompt else None
    asked: dict[str, Any] = {
        "frames": prompt + 5 * WINDOW,
        "words": TECHNO,
        "rules": Rules(0.9),
        "guidance": Guidance(2.0),
    }
    pieces = list(play_codes(player, seed=3, prompt_TK=prompt_TK, **asked))
    (whole,) = player.play(seeds=[3], prompt_BTK=None if prompt_TK is None else prompt_TK[None], **asked)
    assert len(pieces) > 2, "it came piece by piece"
    np.testing.assert_array_equal(np.concatenate(pieces), whole.codes_TK[prompt:].numpy())

    chunks = list(stream(player, codec, seed=3, prompt_TK=prompt_TK, **asked))
    assert [c.first for c in chunks] == np.cumsum([0, *(c.wave_CN.shape[1] for c in chunks[:-1])]).tolist()
    joined = np.concatenate([chunk.wave_CN for chunk in chunks], axis=1)
    codes_TK = whole.codes_TK.numpy()
    at_once = np.concatenate(list(decode_stream(codec, [codes_TK], chunk_seconds=0.25, batch=1)), axis=1)
    np.testing.assert_array_equal(joined, at_once)
    # Other pieces of the codec: the stated bound, which is exact for this codec on a CPU.
    np.testing.assert_allclose(joined, decode_whole(codec, codes_TK), rtol=0, atol=1e-6)


class Adding:
    """A codec without end to its memory: every sample is the sum of all codes so far."""

    spec = toy_spec()
    context_frames = None

    def decode_stream(self, blocks: Iterable[np.ndarray], chunk_seconds: float) -> Iterator[np.ndarray]:
        total = 0.0
        for block_TK in blocks:
            sums = total + np.cumsum(block_TK.sum(axis=1)) / 1000
            total = float(sums[-1])
            yield np.repeat(sums, 80)[None].astype(np.float32)


def test_a_codec_with_memory_is_streamed_too() -> None:
    player, codec = player_of("rvq", spec=toy_spec(), ending=Ending("never")), Adding()
    chunks = list(stream(player, codec, frames=300, words=TECHNO, seed=1))  # type: ignore[arg-type]
    (whole,) = player.play(frames=300, seeds=[1], words=TECHNO, rules=Rules())
    joined = np.concatenate([chunk.wave_CN for chunk in chunks], axis=1)
    assert len(chunks) == 300 / 25 and joined.shape == (1, 300 * 80)
    np.testing.assert_allclose(joined, decode_whole(codec, whole.codes_TK.numpy()), rtol=1e-6)  # type: ignore[arg-type]


def test_an_item_that_ends_is_streamed_to_its_end() -> None:
    for seed in range(40):
        player = player_of("rvq")
        (whole,) = player.play(frames=600, seeds=[seed], words=TECHNO, rules=Rules())
        if whole.ended:
            break
    assert whole.ended, "no seed ends: the test shows nothing"
    streamed = np.concatenate(list(play_codes(player, frames=600, seed=seed, words=TECHNO, rules=Rules())))
    np.testing.assert_array_equal(streamed, whole.codes_TK.numpy())


def test_who_leaves_ends_the_playing() -> None:
    player, threads = player_of("rvq", ending=Ending("never")), threading.active_count()
    pieces = play_codes(player, frames=100_000, words=TECHNO)
    assert len(next(pieces))
    began = time.monotonic()
    pieces.close()
    assert time.monotonic() - began < 30 and threading.active_count() == threads
    chunks = stream(player, open_codec(), frames=100_000, words=TECHNO)
    next(chunks)
    chunks.close()
    assert threading.active_count() == threads


def test_playing_waits_for_who_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "_AHEAD", 2)
    handed = 0

    class Counting:
        spec = None

        def play(self, *, listener: Any, **_: Any) -> None:
            nonlocal handed
            for first in range(50):
                listener(first, torch.full((1, 1, 2), first), [None])
                handed += 1

    pieces = play_codes(Counting(), frames=50)  # type: ignore[arg-type]
    next(pieces)
    time.sleep(0.3)
    assert handed <= 4
    assert [int(piece[0, 0]) for piece in pieces] == list(range(1, 50))


def test_what_goes_wrong_while_playing_reaches_the_listener() -> None:
    with pytest.raises(PartimentoError, match="TOKEN003"):
        list(play_codes(player_of("rvq"), frames=10, words=Words(("tecno",))))
    with pytest.raises(PartimentoError, match="SAMPLE001"):
        list(stream(player_of("rvq"), open_codec(), frames=0, words=TECHNO))


def piped(run: Path, path: Path, **options: Any) -> dict[str, Any]:
    with path.open("wb", buffering=0) as out:
        return pipe(run, out, **{"tags": ["techno"], "seconds": 1.0, **options})


def test_a_stream_into_a_file_is_that_file(run: Path, tmp_path: Path) -> None:
    found = piped(run, tmp_path / "out.wav", guidance=2.0, prompt="a waltz")
    (made,) = sample(run, tmp_path, tags=["techno"], seconds=1.0, guidance=2.0, prompt="a waltz")
    streamed, rate = soundfile.read(tmp_path / "out.wav", dtype="int16")
    np.testing.assert_array_equal(streamed, soundfile.read(tmp_path / made["file"], dtype="int16")[0])
    assert found["seconds"] == pytest.approx(made["seconds"]) and rate == 44100 and not found["stopped"]
    assert found["first_audio"] > 0 and found["realtime"] > 0
    told = json.loads(files.tags(tmp_path / "out.wav")["comment"])
    assert told["request"] == made["request"]
    assert again(tmp_path / "out.wav", run=run).equal, "a stream is reproducible, too"


def test_a_stream_that_is_stopped_is_whole_as_far_as_it_goes(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes = 0
    real = Wav.write

    def interrupted(self: Wav, samples: bytes) -> None:
        nonlocal writes
        real(self, samples)
        writes += 1
        if writes == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Wav, "write", interrupted)
        found = piped(run, tmp_path / "out.wav", seconds=20.0)
    assert found["stopped"] and 0 < found["seconds"] < 20
    assert soundfile.info(tmp_path / "out.wav").frames == round(found["seconds"] * 44100)
    assert again(tmp_path / "out.wav", run=run).equal


def test_the_header_of_a_pipe_says_unknown(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb", buffering=0) as out:
        wav = Wav(out, 2, 44100, {"title": "ab", "comment": "odd" * 1111})
        wav.write(b"\1\0\2\0" * 3)
        wav.close()
    with os.fdopen(reading, "rb") as pipe_:
        content = pipe_.read()
    assert int.from_bytes(content[4:8], "little") == UNKNOWN and content.endswith(b"\1\0\2\0" * 3)
    read, rate = soundfile.read(io.BytesIO(content), dtype="int16")
    assert rate == 44100 and read.tolist() == [[1, 2]] * 3
    (tmp_path / "x.wav").write_bytes(content)
    assert comment(tmp_path / "x.wav") == "odd" * 1111
    (tmp_path / "x.wav").write_bytes(content[:40])
    assert comment(tmp_path / "x.wav") is None


def test_a_file_that_is_appended_to_is_not_rewound(tmp_path: Path) -> None:
    path = tmp_path / "out.wav"
    path.touch()
    with path.open("ab", buffering=0) as out:
        wav = Wav(out, 1, 8000, {})
        wav.write(b"\1\0")
        wav.close()
    assert path.stat().st_size == wav._head + 8 + 2


def test_streams_that_cannot_be(run: Path, tmp_path: Path) -> None:
    for code, options in (
        ("SAMPLE030", {"temperature": [0.5, 1.0]}),
        ("SAMPLE030", {"count": 2}),
        ("SAMPLE030", {"seconds": -1.0}),
        ("TOKEN003", {"tags": ["tecno"]}),
        ("SAMPLE002", {"tags": [], "guidance": 3.0}),
        ("SYS004", {"continue_from": tmp_path / "absent.wav"}),
    ):
        with pytest.raises(PartimentoError, match=code):
            piped(run, tmp_path / "out.wav", **options)
        assert (tmp_path / "out.wav").stat().st_size == 0


def test_a_full_disk_under_a_stream(run: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full here")
    with full.open("wb", buffering=0) as out, pytest.raises(PartimentoError, match="SYS002"):
        pipe(run, out, tags=["techno"], seconds=0.3)
