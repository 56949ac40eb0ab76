"""Recordings of every kind through a restorer: rates, lengths, channels, formats, and what is wrong with some."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray
from restorable import make_run, network, restorer
from torch import Tensor, nn

from partimento.audio.files import read, resample, write
from partimento.errors import PartimentoError
from partimento.play import filewise
from partimento.play.record import RECORD
from partimento.play.restoring import restore, restored, treatment
from partimento.play.shifting import shift_files
from partimento.training.restorer import Restorer, export_restorer, load_restorer, read_folder
from partimento.waveform.generators import Generator

Wave = NDArray[np.float32]


class Fake(nn.Module):
    """Sample by sample: times `gain`, plus `offset`."""

    context, multiple = 3, 2

    def __init__(self, gain: float = 1.0, offset: float = 0.0) -> None:
        super().__init__()
        self.gain, self.offset = gain, offset

    def forward(self, damaged_BN: Tensor) -> Tensor:
        return damaged_BN * self.gain + self.offset


def fake(gain: float, offset: float = 0.0, *, sample_rate: int = 8000, task: str = "clean") -> Restorer:
    generator: Generator = Fake(gain, offset)  # type: ignore[assignment]
    return restorer(generator, sample_rate=sample_rate, task=task)  # type: ignore[arg-type]


def sound(channels: int, count: int, seed: int = 0) -> Wave:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, (channels, count)).astype(np.float32)


def sine(hertz: float, sample_rate: int, count: int) -> Wave:
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(count, dtype=np.float64) / sample_rate)[None].astype(np.float32)


def through(wave_CN: Wave, sample_rate: int, found: Restorer, size: int = 1000) -> Wave:
    blocks: Iterator[Wave] = (wave_CN[:, i : i + size] for i in range(0, wave_CN.shape[1], size))
    return np.concatenate(list(restored(blocks, sample_rate, found)), axis=1)


def db(ratio: float) -> float:
    return 20 * np.log10(ratio + 1e-12)


# ---- rates -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sample_rate", [4000, 8000, 11025, 16000, 24000])
@pytest.mark.parametrize("count", [1, 3, 80, 4001])
def test_a_network_that_changes_nothing_keeps_every_bit_at_any_rate(sample_rate: int, count: int) -> None:
    wave_CN = sound(2, count)
    assert np.array_equal(through(wave_CN, sample_rate, fake(1.0)), wave_CN)


def test_above_the_networks_band_the_input_is_kept() -> None:
    """A network that silences everything leaves of 24 kHz exactly what lies above its own 4 kHz."""
    low_CN, high_CN = sine(1000, 24000, 24000), sine(9000, 24000, 24000)
    made = through(low_CN + high_CN, 24000, fake(0.0))
    inner = slice(2000, -2000)  # a filter rings where a sine begins
    assert db(np.abs(made - high_CN)[:, inner].max()) < -90
    assert treatment(24000, fake(0.0)) == "restored at 8000 Hz and back; what lies above 4000 Hz is kept as it was"


def test_of_an_unshift_nothing_of_the_input_is_kept() -> None:
    wave_CN = sine(1000, 24000, 24000) + sine(9000, 24000, 24000)
    made = through(wave_CN, 24000, fake(2.0, task="unshift"))
    inner = slice(2000, -2000)
    assert db(np.abs(made - 2 * sine(1000, 24000, 24000))[:, inner].max()) < -90
    assert "left out" in treatment(24000, fake(1.0, task="unshift"))


@pytest.mark.parametrize("sample_rate", [4000, 12000])
def test_another_rate_is_the_same_sound(sample_rate: int) -> None:
    """Within the band of both, a file of another rate is restored as the same sound at the network's own rate."""
    # Not the spectral network: in empty bins it hears the rounding of the resampler.
    found, count = restorer(network("dac")), 16000
    wave_CN = sine(220, 8000, count) + sine(700, 8000, count) + sine(1300, 8000, count)
    wanted = resample(through(wave_CN, 8000, found), 8000, sample_rate)
    made = through(resample(wave_CN, 8000, sample_rate), sample_rate, found)
    inner = slice(sample_rate // 4, -sample_rate // 4)
    assert np.abs(made[:, inner] - resample(wave_CN, 8000, sample_rate)[:, inner]).max() > 0.01, "it does something"
    if sample_rate > 8000:
        assert db(np.abs(made - wanted)[:, inner].max()) < -60
    else:  # what the network adds above the file's band is not there
        low = np.abs(np.fft.rfft((made - wanted)[0, inner] * np.hanning(made[:, inner].shape[1])))
        assert db(low[: len(low) * 3 // 4].max() / (sample_rate / 8)) < -60


# ---- files -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs"), "cleaner").path


def put(path: Path, wave_CN: Wave, sample_rate: int, subtype: str = "PCM_16") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wave_CN.T, sample_rate, subtype=subtype)
    return path


@pytest.mark.parametrize(
    ("name", "subtype", "file", "bits"),
    [
        ("a.wav", "PCM_16", "a.wav", "PCM_16"),
        ("a.wav", "PCM_24", "a.wav", "PCM_24"),
        ("a.wav", "FLOAT", "a.wav", "FLOAT"),
        ("a.wav", "PCM_U8", "a.wav", "PCM_16"),
        ("A.WAV", "PCM_32", "A.WAV", "PCM_32"),
        ("a.flac", "PCM_24", "a.flac", "PCM_24"),
        ("a.aiff", "PCM_16", "a.aiff.flac", "PCM_16"),
        ("a.aiff", "FLOAT", "a.aiff.wav", "FLOAT"),
        ("a.ogg", "VORBIS", "a.ogg.flac", "PCM_24"),
    ],
)
def test_outputs_are_held_as_their_inputs(
    run_folder: Path, tmp_path: Path, name: str, subtype: str, file: str, bits: str
) -> None:
    put(tmp_path / name, sound(2, 3000), 11025, subtype)
    (made,) = restore(run_folder, tmp_path / name, tmp_path / "out")
    assert made.state == "made" and made.file == str(tmp_path / "out" / file) and made.bits == bits
    found = soundfile.info(made.file)
    assert (found.frames, found.samplerate, found.channels, found.subtype) == (3000, 11025, 2, bits)


def test_tags_of_a_flac_stay(run_folder: Path, tmp_path: Path) -> None:
    with soundfile.SoundFile(tmp_path / "a.flac", "w", 8000, 1) as file:
        file.title, file.artist = "Moto perpetuo", "N. N."
        file.write(sound(1, 800).T)
    (made,) = restore(run_folder, tmp_path / "a.flac", tmp_path / "out")
    with soundfile.SoundFile(str(made.file)) as file:
        assert (file.title, file.artist) == ("Moto perpetuo", "N. N.")


@pytest.mark.parametrize("count", [1, 80, 8001])
@pytest.mark.parametrize("sample_rate", [8000, 96000])
def test_what_is_written_is_what_the_network_makes(
    run_folder: Path, tmp_path: Path, sample_rate: int, count: int
) -> None:
    wave_CN = sound(2, count)
    put(tmp_path / "a.wav", wave_CN, sample_rate, "FLOAT")
    (made,) = restore(run_folder, tmp_path / "a.wav", tmp_path / "out.wav")
    assert np.array_equal(
        read(tmp_path / "out.wav").wave_CN, through(wave_CN, sample_rate, load_restorer(run_folder), size=1 << 17)
    )
    assert made.samples == count and made.file == str(tmp_path / "out.wav")


def test_silence_stays_silence(run_folder: Path, tmp_path: Path) -> None:
    for sample_rate in (8000, 44100):
        put(tmp_path / f"{sample_rate}.wav", np.zeros((2, 20000), np.float32), sample_rate, "FLOAT")
    for made in restore(run_folder, [tmp_path / "8000.wav", tmp_path / "44100.wav"], tmp_path / "out"):
        assert not read(Path(str(made.file))).wave_CN.any()


def test_overs_are_cut_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("partimento.play.restoring.load_restorer", lambda *_: fake(1.5))
    wave_CN = np.clip(4 * sine(100, 8000, 8000), -1, 1)
    write(tmp_path / "clipped.wav", wave_CN, 8000)
    soundfile.write(tmp_path / "float.wav", wave_CN.T, 8000, subtype="FLOAT")
    cut, kept = restore("any", [tmp_path / "clipped.wav", tmp_path / "float.wav"], tmp_path / "out")
    over = int((np.abs(read(tmp_path / "clipped.wav").wave_CN) * 1.5 > 1).sum())
    assert cut.clipped == over > 4000 and np.abs(read(Path(str(cut.file))).wave_CN).max() <= 1
    assert kept.clipped == 0 and np.abs(read(Path(str(kept.file))).wave_CN).max() == 1.5


def test_what_is_wrong_with_a_file_is_its_own_matter(run_folder: Path, tmp_path: Path) -> None:
    here = tmp_path / "in"
    put(here / "good.wav", sound(1, 500), 8000)
    nan_CN = sound(1, 500)
    nan_CN[0, 77] = np.nan
    put(here / "nan.wav", nan_CN, 8000, "FLOAT")
    put(here / "none.wav", sound(1, 0), 8000)
    (here / "empty.wav").touch()
    (here / "text.flac").write_text("<html>not found</html>" * 9)
    whole = put(here / "cut.wav", sound(1, 5000), 8000).read_bytes()
    (here / "cut.wav").write_bytes(whole[:4000])
    made = {Path(one.input).name: one for one in restore(run_folder, here, tmp_path / "out")}
    codes = {name: one.error["code"] for name, one in made.items() if one.error}
    assert codes == {
        "nan.wav": "AUDIO006",
        "none.wav": "AUDIO007",
        "empty.wav": "AUDIO003",
        "text.flac": "AUDIO002",
        "cut.wav": "AUDIO004",
    }
    assert "nan.wav" in made["nan.wav"].error["where"]  # type: ignore[index]
    left = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert left == ["good.wav", "made.jsonl"], "and nothing of the others is left"
    err = filewise.failure(list(made.values()))
    assert err is not None and err.code == "RESTORE006" and err.exit_status == 3
    alone = filewise.failure([made["nan.wav"]])
    assert alone is not None and (alone.code, alone.where) == ("AUDIO006", str(here / "nan.wav"))
    assert filewise.failure([made["good.wav"]]) is None


def test_a_network_that_diverged_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("partimento.play.restoring.load_restorer", lambda *_: fake(float("nan")))
    put(tmp_path / "a.wav", sound(1, 500), 8000)
    (made,) = restore("any", tmp_path / "a.wav", tmp_path / "out")
    assert made.error is not None and made.error["code"] == "AUDIO011"
    assert not list((tmp_path / "out").glob("*.wav"))


# ---- names, and what is there already ------------------------------------------------------------------------------


def test_a_folders_tree_is_kept(run_folder: Path, tmp_path: Path) -> None:
    for name in ("x/a.wav", "x/deep/a.wav", "x/deep/b.aiff", "y/a.wav"):
        put(tmp_path / name, sound(1, 100), 8000)
    put(tmp_path / "z.wav", sound(1, 100), 8000)
    restore(run_folder, tmp_path / "x", tmp_path / "one")
    files = sorted(path.relative_to(tmp_path / "one").as_posix() for path in (tmp_path / "one").rglob("*.*"))
    assert files == ["a.wav", "deep/a.wav", "deep/b.aiff.flac", "made.jsonl"]
    given = [tmp_path / "x", tmp_path / "y", tmp_path / "z.wav", tmp_path / "x" / "a.wav"]
    restore(run_folder, given, tmp_path / "many")
    files = sorted(path.relative_to(tmp_path / "many").as_posix() for path in (tmp_path / "many").rglob("*.[wf]*"))
    assert files == ["x/a.wav", "x/deep/a.wav", "x/deep/b.aiff.flac", "y/a.wav", "z.wav"]


def test_the_same_command_goes_on_and_replaces_nothing_else(run_folder: Path, tmp_path: Path) -> None:
    here, out = tmp_path / "in", tmp_path / "in" / "out"
    for number in range(3):
        put(here / f"{number}.wav", sound(1, 300, seed=number), 8000)
    assert [one.state for one in restore(run_folder, here, out)] == ["made"] * 3
    again = restore(run_folder, here, out)
    assert [one.state for one in again] == ["there"] * 3, "outputs inside of the inputs are no inputs"
    assert again[0].clipped is not None and again[0].file == str(out / "0.wav")

    put(here / "0.wav", sound(1, 300, seed=9), 8000)  # another recording
    (out / "1.wav").unlink()
    (out / "2.wav").write_bytes(b"mine")  # another file
    states = [(one.state, (one.error or {}).get("code")) for one in restore(run_folder, here, out)]
    assert states == [("failed", "RESTORE004"), ("made", None), ("failed", "RESTORE004")]
    assert (out / "2.wav").read_bytes() == b"mine"
    assert [one.state for one in restore(run_folder, here, out, weights="raw")] == ["failed"] * 3, "other weights"
    assert [one.state for one in restore(run_folder, here, out, force=True)] == ["made"] * 3
    assert [one.state for one in restore(run_folder, here, out)] == ["there"] * 3


def test_a_link_is_a_name_of_its_own(run_folder: Path, tmp_path: Path) -> None:
    put(tmp_path / "in" / "a.wav", sound(1, 300), 8000)
    (tmp_path / "in" / "b.wav").symlink_to(tmp_path / "in" / "a.wav")
    assert [one.state for one in restore(run_folder, tmp_path / "in", tmp_path / "out")] == ["made", "made"]


def test_a_torn_record_costs_what_it_told_of(run_folder: Path, tmp_path: Path) -> None:
    put(tmp_path / "a.wav", sound(1, 300), 8000)
    restore(run_folder, tmp_path / "a.wav", tmp_path / "out")
    record = tmp_path / "out" / RECORD
    record.write_text(record.read_text()[:-20])
    (made,) = restore(run_folder, tmp_path / "a.wav", tmp_path / "out")
    assert made.error is not None and made.error["why"] == "nothing tells what it was made of"


@pytest.mark.parametrize("to", ["in", "in/a.wav", "link"])
def test_inputs_are_never_replaced(run_folder: Path, tmp_path: Path, to: str) -> None:
    before = put(tmp_path / "in" / "a.wav", sound(1, 300), 8000).read_bytes()
    (tmp_path / "link").symlink_to(tmp_path / "in")
    (made,) = restore(run_folder, tmp_path / "in" / "a.wav", tmp_path / to, force=True)
    assert made.error is not None and made.error["code"] == "RESTORE003"
    with pytest.raises(PartimentoError, match=r"RESTORE003|SYS006"):
        restore(run_folder, tmp_path / "in", tmp_path / to, force=True)
    assert (tmp_path / "in" / "a.wav").read_bytes() == before


def test_requests_that_cannot_be(run_folder: Path, tmp_path: Path) -> None:
    put(tmp_path / "x" / "a.wav", sound(1, 300), 8000)
    put(tmp_path / "y" / "a.wav", sound(1, 300), 8000)
    both = [tmp_path / "x" / "a.wav", tmp_path / "y" / "a.wav"]
    (tmp_path / "file").touch()
    for inputs, to, code in [
        (both[:1], "file", "SYS002"),
        (both, "out", "RESTORE005"),
        (both, "out.wav", "SYS006"),
        (both[:1], "out.mp3", "SYS006"),
        ([tmp_path / "x" / "b.wav"], "out", "SYS004"),
        ([tmp_path / "x" / "nothing"], "out", "SYS004"),
    ]:
        with pytest.raises(PartimentoError) as failed:
            restore(run_folder, inputs, tmp_path / to)
        assert failed.value.code == code


# ---- what restores -------------------------------------------------------------------------------------------------


def test_raw_and_averaged_weights(tmp_path: Path) -> None:
    both, raw = make_run(tmp_path, "both").path, make_run(tmp_path, "raw", ema=False).path
    weights = [load_restorer(both, which).generator.state_dict() for which in ("ema", "raw")]
    name = next(iter(weights[0]))
    assert torch.equal(weights[0][name] * 2, weights[1][name])
    with pytest.raises(PartimentoError, match="--weights raw"):
        load_restorer(raw)
    assert load_restorer(raw, "raw").semitones == (-3.0, 3.0)


def test_a_folder_of_weights_restores_as_its_run(tmp_path: Path) -> None:
    run = make_run(tmp_path, "r").path
    card = export_restorer(run, tmp_path / "weights")
    assert str(tmp_path) not in json.dumps(card), "no place of this machine"
    found = load_restorer(tmp_path / "weights")
    assert (found.sample_rate, found.task, found.full_band) == (8000, "clean", True)
    wave_CN = sound(1, 4000)
    difference = np.abs(through(wave_CN, 8000, found) - through(wave_CN, 8000, load_restorer(run)))
    assert 0 < difference.max() < 2e-3, "half precision"
    network, tensors, _ = read_folder(tmp_path / "weights")
    assert network == found.generator.config and all(t.dtype == torch.float32 for t in tensors.values())
    with pytest.raises(PartimentoError, match="WEIGHTS008"):
        export_restorer(run, tmp_path / "weights")


@pytest.mark.parametrize("damage", ["weights", "card", "missing", "lost", "rate", "another"])
def test_a_damaged_folder_is_not_believed(tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "weights"
    export_restorer(make_run(tmp_path, "r").path, folder)
    if damage == "weights":
        content = bytearray((folder / "weights.safetensors").read_bytes())
        content[-1] ^= 1
        (folder / "weights.safetensors").write_bytes(content)
    elif damage == "card":
        (folder / "card.json").write_text("{")
    elif damage == "missing":
        (folder / "weights.safetensors").unlink()
    else:
        card = json.loads((folder / "card.json").read_text())
        if damage == "lost":
            del card["task"]
        elif damage == "rate":
            card["sample_rate"] = "8000"
        else:
            card["generator"]["width"] *= 2
        (folder / "card.json").write_text(json.dumps(card))
    with pytest.raises(PartimentoError, match="RESTORE002"):
        load_restorer(folder)


def test_what_does_not_restore_is_named(tmp_path: Path) -> None:
    from partimento.codecs import resident

    run = make_run(tmp_path, "r").path
    shutil.copytree(run, tmp_path / "codec")
    record = json.loads((run / "run.json").read_text())
    (tmp_path / "codec" / "run.json").write_text(json.dumps({**record, "family": "codec"}))
    with pytest.raises(PartimentoError, match="a run of the family codec"):
        load_restorer(tmp_path / "codec")
    with pytest.raises(PartimentoError, match="the codec resident-44k"):
        load_restorer(resident.HOME)
    with pytest.raises(PartimentoError, match="RUN001"):
        load_restorer(tmp_path)
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(PartimentoError, match="CKPT003"):
        load_restorer(run)


# ---- shifting ------------------------------------------------------------------------------------------------------


def test_shifting_moves_pitch_and_not_time(tmp_path: Path) -> None:
    wave_CN = np.zeros((2, 30000), np.float32)
    wave_CN[:, 10000:20000] = sine(440, 22050, 10000)
    put(tmp_path / "a.flac", wave_CN, 22050, "PCM_24")
    found = shift_files(tmp_path / "a.flac", 7, tmp_path / "out", cleaner="none")
    (made,) = found.files
    assert made.state == "made" and made.samples == 30000 and found.latency[22050] > 0 and found.cleaner is None
    shifted = read(Path(str(made.file))).wave_CN
    spectrum = np.abs(np.fft.rfft(shifted[0, 12000:18000] * np.hanning(6000)))
    assert np.argmax(spectrum) * 22050 / 6000 == pytest.approx(440 * 2 ** (7 / 12), abs=4)
    energy = np.cumsum(shifted[0].astype(np.float64) ** 2)
    middle = np.searchsorted(energy, energy[-1] / 2)
    assert abs(middle - 15000) < 300, "the delay is made up for"


def test_the_cleaner_comes_after_the_shifter(run_folder: Path, tmp_path: Path) -> None:
    put(tmp_path / "a.wav", sine(440, 11025, 9000), 11025, "FLOAT")
    plain = shift_files(tmp_path / "a.wav", -2.5, tmp_path / "plain.wav", cleaner="none")
    cleaned = shift_files(tmp_path / "a.wav", -2.5, tmp_path / "clean.wav", cleaner=run_folder)
    assert plain.cleaner is None and cleaned.cleaner == "cleaner" and "Stretch" in cleaned.engine
    wanted = through(read(tmp_path / "plain.wav").wave_CN, 11025, load_restorer(run_folder), size=1 << 20)
    assert np.array_equal(read(tmp_path / "clean.wav").wave_CN, wanted)
    assert "restored at 8000 Hz and back" in str(cleaned.files[0].done)


def test_nothing_to_shift_is_the_input(tmp_path: Path) -> None:
    wave_CN = sound(1, 3000)
    put(tmp_path / "a.wav", wave_CN, 44100, "FLOAT")
    shift_files(tmp_path / "a.wav", 0, tmp_path / "b.wav")
    assert np.array_equal(read(tmp_path / "b.wav").wave_CN, wave_CN)


def test_shifts_that_cannot_be(tmp_path: Path) -> None:
    put(tmp_path / "a.wav", sound(1, 3000), 44100)
    unshift = make_run(tmp_path, "unshift", task="unshift").path
    with pytest.raises(PartimentoError, match="RESTORE007"):
        shift_files(tmp_path / "a.wav", 3, tmp_path / "out", cleaner=unshift)
    for semitones in (25.0, float("nan")):
        with pytest.raises(PartimentoError, match="AUDIO041"):
            shift_files(tmp_path / "a.wav", semitones, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_another_shift_is_another_output(tmp_path: Path) -> None:
    put(tmp_path / "a.wav", sound(1, 3000), 44100)
    states = [
        shift_files(tmp_path / "a.wav", semitones, tmp_path / "out", cleaner="none").files[0].state
        for semitones in (1, 1, 2)
    ]
    assert states == ["made", "there", "failed"]


def test_without_a_cleaner_the_user_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Notes:
        def __init__(self) -> None:
            self.told: list[str] = []

        def stage(self, name: str, why: str = "") -> None: ...

        def update(self, done: float, total: float, **facts: str | float | int) -> None: ...

        def note(self, text: str) -> None:
            self.told.append(text)

    monkeypatch.setattr("partimento.play.shifting.CLEANER", tmp_path / "nowhere")
    put(tmp_path / "a.wav", sound(1, 3000), 44100)
    notes = Notes()
    assert shift_files(tmp_path / "a.wav", 3, tmp_path / "out", progress=notes).cleaner is None
    assert any("no cleaner" in text for text in notes.told)
    export_restorer(make_run(tmp_path, "r").path, tmp_path / "packaged")
    monkeypatch.setattr("partimento.play.shifting.CLEANER", tmp_path / "packaged")
    notes = Notes()
    assert shift_files(tmp_path / "a.wav", 12, tmp_path / "out2", progress=notes).cleaner == "packaged"
    assert any("beyond" in text for text in notes.told)


def test_random_weights_do_something() -> None:
    wave_CN = sound(1, 4000)
    made = network()(torch.from_numpy(wave_CN)).numpy()
    assert np.abs(made - wave_CN).max() > 0.01
