"""What `codec check` measures, held against closed forms and against codecs with known faults."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from tinydac import save, tiny_dac

from partimento.audio import files
from partimento.cli.main import cli
from partimento.codecs.layout import lay_out
from partimento.codecs.measure import books_gain, check, lag, measure, seams
from partimento.tokens.spec import CodecSpec

RATE, HOP = 16000, 16


class Steps:
    """Book k is the k-th of the 16 samples of a frame, in 4096 steps.

    `late` shifts the result, `gain` scales it, `flaw` frames at the begin of whatever is coded come out wrong.
    """

    context_frames = 0

    def __init__(self, late: int = 0, gain: float = 1.0, flaw: int = 0):
        self.spec = CodecSpec("steps", "0" * 64, RATE, Fraction(RATE, HOP), (4096,) * HOP)
        self.late, self.gain, self.flaw = late, gain, flaw

    def encode(self, wave_BCN):
        padded = torch.nn.functional.pad(wave_BCN, (0, -wave_BCN.shape[-1] % HOP))
        whole = ((padded.clamp(-1, 1) + 1) / 2 * 4095).round().long()
        codes = whole.reshape(len(wave_BCN), -1, HOP)
        if self.flaw:
            codes[:, : self.flaw] = 0
        return codes

    def decode(self, codes_BTK):
        full = torch.nn.functional.pad(codes_BTK, (0, HOP - codes_BTK.shape[-1]), value=2048)
        wave = self.gain * (full.float() / 4095 * 2 - 1).reshape(len(codes_BTK), 1, -1)
        return torch.nn.functional.pad(wave, (self.late, 0))[..., : wave.shape[-1]]


def tone(seconds: float = 1.0, channels: int = 1, amplitude: float = 0.5) -> np.ndarray:
    time = np.arange(int(seconds * RATE)) / RATE
    rows = [amplitude * np.sin(2 * np.pi * 440 * (c + 1) * time) for c in range(channels)]
    noise = 0.05 * np.random.default_rng(0).standard_normal((channels, len(time)))
    return (np.stack(rows) + noise).astype(np.float32)


def test_a_nearly_exact_codec() -> None:
    found = measure(Steps(), [tone(), tone(0.5)])
    step = 2 / 4095
    assert found.mse == pytest.approx(step**2 / 12, rel=0.05)
    assert found.mae == pytest.approx(step / 4, rel=0.05)
    assert found.si_sdr is not None and found.si_sdr > 60
    assert (found.recordings, found.seconds, found.lag) == (2, 1.5, 0)
    assert all(p == pytest.approx(2**e) for p, e in zip(found.perplexity_K, found.entropy_K, strict=True))


def test_gain_changes_mse_but_not_si_sdr() -> None:
    wave = tone()
    loud, half = measure(Steps(), [wave]), measure(Steps(gain=0.5), [wave])
    assert half.mse == pytest.approx(float(np.square(wave / 2).mean()), rel=0.01)
    assert half.mae == pytest.approx(float(np.abs(wave / 2).mean()), rel=0.01)
    assert half.si_sdr == pytest.approx(loud.si_sdr, abs=1)


@pytest.mark.parametrize("late", [0, 1, 8, 15])
def test_a_shift_is_found(late: int) -> None:
    assert measure(Steps(late=late), [tone()]).lag == late


def test_lag_closed_form() -> None:
    wave = torch.randn(2, 5000, generator=torch.Generator().manual_seed(0))
    assert lag(torch.roll(wave, 30, -1), wave, 100) == 30
    assert lag(torch.roll(wave, -30, -1), wave, 100) == -30
    assert lag(torch.zeros(1, 50), torch.zeros(1, 50), 8) is None


def test_silence_is_missing_not_zero() -> None:
    found = measure(Steps(), [np.zeros((1, RATE), np.float32)])
    assert found.si_sdr is None
    assert "NaN" not in json.dumps(found.to_json())


def test_each_channel_is_measured() -> None:
    codec = lay_out(Steps(), "left-right", (HOP, HOP))
    wave = tone(channels=2)
    both = measure(codec, [wave])
    each = [measure(Steps(), [wave[c : c + 1]]) for c in (0, 1)]
    assert both.mse == pytest.approx(np.mean([one.mse for one in each]), rel=1e-5)
    assert both.mel7 == pytest.approx(np.mean([one.mel7 for one in each]), rel=1e-5)
    assert len(both.entropy_K) == 2 * HOP
    assert both.entropy_K[:HOP] == pytest.approx(each[0].entropy_K)


def test_long_recordings_go_by_the_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("partimento.codecs.measure.PASSAGE_SECONDS", 1)
    found = measure(Steps(), [tone(2.5)])
    assert found.recordings == 1 and found.seconds == pytest.approx(2.5)


def test_gain_of_each_book() -> None:
    gain = books_gain(Steps(), tone())
    assert list(gain) == [1, 2, 4, 8, 16]
    assert gain[16] < gain[8] < gain[1]
    assert list(books_gain(lay_out(Steps(), "mid-side", (3, 1)), tone(channels=2))) == [1, 2, 3]


def test_seams_of_an_exact_codec_and_of_one_that_forgets() -> None:
    wave = tone(3.0)
    exact = seams(Steps(), wave, 0.5)
    assert (exact.seams, exact.equal, exact.equal_worst_seam) == (5, 1.0, 1.0)
    flawed = seams(Steps(flaw=4), wave, 0.5)
    assert flawed.seams == 5 and flawed.equal_worst_seam == pytest.approx(1 - 4 / 16, abs=0.02)
    assert flawed.equal == pytest.approx(1 - 5 * 4 / 3000, abs=0.001)
    assert seams(Steps(), tone(0.2)).equal_worst_seam is None


def test_check_joins_all() -> None:
    found = check(Steps(), iter([tone(), tone(2.0)])).to_json()
    assert found["equal"] == 1.0 and found["seams"] == 1
    assert list(found["mel7_by_books"]) == ["1", "2", "4", "8", "16"] and found["lag"] == 0


def test_the_command(tmp_path: Path) -> None:
    folder, sound = save(tiny_dac(16000), tmp_path / "dac"), tmp_path / "a.wav"
    files.write(sound, tone(2.0, channels=2), RATE)
    picture = tmp_path / "a.png"
    args = ["codec", "check", str(sound), "--codec", folder, "--layout", "mid-side", "--books", "4,2", "-q", "--json"]
    done = CliRunner().invoke(cli, [*args, "--picture", str(picture)])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert len(found["used_K"]) == 6 and found["equal"] == 1.0 and found["seams"] == 1
    assert list(found["mel7_by_books"]) == ["1", "2", "4"]
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and math.prod(_size(picture)) > 500_000
    assert CliRunner().invoke(cli, [*args[:5], "--books", "9x"]).exit_code == 2


def _size(picture: Path) -> tuple[int, int]:
    content = picture.read_bytes()
    return int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big")


def test_the_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("partimento.runs.hub.cached", lambda name, file: None)
    done = CliRunner().invoke(cli, ["codec", "list", "--json"])
    rows = {row["codec"]: row for row in json.loads(done.stdout)["codecs"]}
    assert rows["resident-44k"]["here"] and rows["resident-44k"]["kbit/s"] == pytest.approx(7.75, abs=0.01)
    assert not rows["dac-44k"]["here"] and rows["mimi-24k"]["of"] == 32
    assert "hf download descript/dac_16khz" in CliRunner().invoke(cli, ["codec", "list"]).stdout
