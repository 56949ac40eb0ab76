"""The sections of the families that make sound (`codec`, `restore`): their data, networks, distances and adversary."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field, model_validator

from partimento.settings import Optim, Positive, Section, Share

Weight = Annotated[float, Field(ge=0)]
Rate = Annotated[int, Field(ge=8000, le=192000)]
Ramp: TypeAlias = Weight | Annotated[list[Weight], Field(min_length=2, max_length=2)]
"""A weight, or those of the first and the last step; between them it goes evenly in the logarithm (evenly, where one of
them is 0)."""


class Recordings(Section):
    """What both families hear: recordings, and loops of the synthetic band."""

    folders: list[str] = []
    """Folders of recordings; about 15 % of them are held out, by the hash of their name (see `group`)."""
    credits: list[str] = []
    """What the recordings are and their licences, for the card of what is exported."""
    group: Literal["file", "folder"] = "file"
    """What the split keeps together: a file, or all files of one folder (a singer, a session, an album)."""
    band_loops: Annotated[int, Field(ge=0)] = 0
    """Loops of the synthetic band that are played into memory at the start (some 0.3 s each), songs held out alike."""
    held_out_styles: list[str] = []
    """Styles of the band that are never trained on, and judged as a kind of their own."""
    shares: dict[str, Weight] = {}
    """How often each kind is heard, relative to the others: {tunes = 2, band = 0.5}. A kind is the name of a folder of
    `folders`, or band; those that are not named count 1."""
    crop: Positive = 16384
    """Samples in one crop."""


class SoundData(Recordings):
    """Where crops of audio come from, for training a codec."""

    band_loops: Annotated[int, Field(ge=0)] = 160

    @model_validator(mode="after")
    def _has_a_source(self) -> SoundData:
        if not self.folders and not self.band_loops:
            raise ValueError("there is nothing to train on: give data.folders, or data.band_loops above 0")
        return self


class PairData(Recordings):
    """Where pairs of a damaged and a clean wave come from, for training a restorer."""

    task: Literal["clean", "unshift"] = "clean"
    """clean: shifted by n semitones and back, to be as it was before. unshift: shifted once, to be unshifted."""
    semitones: Annotated[list[Annotated[float, Field(ge=-24, le=24)]], Field(min_length=1)] = [-12, -7, -3, 3, 7, 12]
    """The shifts, drawn evenly; with 0 among them some pairs are equal, and the restorer learns to leave them alone."""
    full_band: bool = True
    """Shift at twice the sample rate or more, so that an octave up and back keeps the top octave."""
    pairs: str | None = None
    """Folder that `partimento pairs` wrote, in place of folders, semitones and the rest; nothing is shifted then."""
    sample_rate: Rate = 44100
    """Rate of the network, to which everything is resampled."""

    @model_validator(mode="after")
    def _has_one_source(self) -> PairData:
        if self.pairs is None and not self.folders and not self.band_loops:
            raise ValueError("there is nothing to train on: give data.folders, data.band_loops above 0, or data.pairs")
        if self.pairs is not None and (self.folders or self.band_loops):
            raise ValueError("data.pairs holds its own recordings: give it, or data.folders and data.band_loops")
        return self


class AutoencoderModel(Section):
    """Our own codec (`waveform/autoencoder.py`)."""

    sample_rate: Rate = 44100
    hop: Positive = 512
    """Samples of one frame of codes."""
    encoder: Literal["mdct", "dac"] = "mdct"
    """What the encoder sees: MDCT frames, or the samples, by DAC's strided convolutions."""
    decoder: Literal["mdct", "stft", "dual", "dac"] = "mdct"
    """What the decoder makes: MDCT frames, complex STFT frames, those of short and of long windows, or samples."""
    width: Positive = 256
    """Of a trunk between frames; of DAC's networks on samples the channels at the frame rate, halved at each stride."""
    expansion: Positive = 3
    """Inner width of the blocks between frames, as a multiple of `width`."""
    encoder_layers: Positive = 3
    decoder_layers: Positive = 5
    latent: Positive = 32
    """Width of the vector that the residual quantizer codes."""
    codebooks: Positive = 9
    cardinality: Annotated[int, Field(ge=2, le=65536)] = 1024
    lookup: Literal["averaged", "factorised"] = "averaged"
    """averaged: books of the latent's width that follow moving averages. factorised: DAC's, which look up normalised
    vectors of `factor` dimensions and learn by gradient."""
    factor: Positive = 8
    start_step: Positive = 150
    """Steps without quantization, after which the codebooks are set by k-means on the latents."""
    book_dropout: Share = 0.25
    """Share of the items that are given only their first n codebooks (n drawn evenly): coarse codes mean something."""
    weights: str | None = None
    """Folder of a codec (`partimento codec export`, or `resident-44k`) to start from."""
    freeze_codes: bool = False
    """Keep encoder and codebooks of `weights` as they are and train the decoder: what was encoded stays valid."""

    @model_validator(mode="after")
    def _codes_are_of_the_weights(self) -> AutoencoderModel:
        if self.freeze_codes and self.weights is None:
            raise ValueError("model.freeze_codes keeps the encoder of model.weights: give it")
        return self


class GeneratorModel(Section):
    """A network from wave to wave (`waveform/generators`)."""

    net: Literal["spectral", "dac", "convnext", "patch", "melgan"] = "spectral"
    """spectral: complex STFT in, complex STFT out, ConvNeXt blocks between frames. The others are U-Nets on samples:
    DAC's units with Snake, ConvNeXt blocks, patches with pixel-shuffle skips, MelGAN's residual stacks."""
    width: Positive | None = None
    """Of the trunk (spectral), or channels of the first level; by default as the network was designed."""
    strides: list[Annotated[int, Field(ge=1)]] | None = None
    """Downsampling from each level to the next (U-Nets)."""
    blocks: Positive | None = None
    """Residual blocks in all (spectral) or a level."""
    stem: Positive | None = None
    """Samples that share a place of the first level."""
    hop: Positive | None = None
    """Hop of the transform, whose window is four times as long (spectral)."""
    residual: bool = True
    """The network makes what is to be added to its input, so that it begins as the identity. For unshift set it off."""
    weights: str | None = None
    """Folder of a restorer (`partimento weights export`) to start from."""


class SoundLoss(Section):
    """What is summed over what was made: each distance to the target, times its weight."""

    mel: Ramp = 15.0
    """`mel7`, the 7-scale mel distance."""
    stft: Ramp = 0.0
    """Log and linear magnitudes at windows of 2048 and 512."""
    wave: Ramp = 15.0
    """Mean absolute error of the samples. The others hardly see phase; where the target's phase cannot be known, as
    after pitch shifting, much of it teaches silence."""
    si_sdr: Ramp = 0.0
    """Negative SI-SDR, in dB."""
    adversarial: Weight = 1.0
    """Once the adversary plays: how far what was made is from what it takes for real (LSGAN)."""
    features: Weight = 2.0
    """Once the adversary plays: distance of what it sees inside."""
    balance: bool = False
    """Scale the gradient of each part at the wave to its weight's share, whatever its size (audiocraft's balancer);
    else weights are factors."""

    @model_validator(mode="after")
    def _has_a_distance(self) -> SoundLoss:
        weights = (self.mel, self.stft, self.wave, self.si_sdr)
        if not any(max(weight) if isinstance(weight, list) else weight for weight in weights):
            raise ValueError("loss.mel, stft, wave and si_sdr are all 0: one distance to the target is needed")
        return self


class CodecLoss(SoundLoss):
    wave: Ramp = [3000.0, 750.0]
    commit: Weight = 3.75
    """Distance between latents and their codes."""


class Adversary(Section):
    """The second player: discriminators that learn to tell what was made from recordings."""

    start: Annotated[int, Field(ge=0)] | None = None
    """First optimizer step in which it plays: 0, or after a warm start. Without, there is none."""
    every: Positive = 1
    """It steps at every n-th step only, while the generator hears it at each."""
    periods: list[Annotated[int, Field(ge=2)]] = [2, 3, 5, 7, 11]
    """One discriminator each sees every n-th sample as a row."""
    period_width: Positive = 32
    """Channels of their first layer (DAC: 32; a quarter costs a sixteenth)."""
    windows: list[Annotated[int, Field(ge=32)]] = [2048, 1024, 512]
    """One discriminator each sees complex STFT frames of this window, in five bands."""
    window_width: Positive = 32
    rates: list[Positive] = []
    """One discriminator each hears the wave resampled to 1/n of its rate."""
    rate_width: Positive = 16
    optimizer: Literal["adamw", "muon"] | None = None
    """The generator's (`optim.name`) by default; so are the rates and the rest."""
    lr: Annotated[float, Field(gt=0)] | None = None
    muon_lr: Annotated[float, Field(gt=0)] | None = None
    betas: Annotated[list[float], Field(min_length=2, max_length=2)] | None = None
    weight_decay: Annotated[float, Field(ge=0)] | None = None
    clip: Annotated[float, Field(gt=0)] = 10.0

    @model_validator(mode="after")
    def _plays_with_something(self) -> Adversary:
        if self.start is not None and not (self.periods or self.windows or self.rates):
            raise ValueError("adversary.start is given, and neither periods nor windows nor rates are")
        for name in ("periods", "windows", "rates"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"adversary.{name} names one twice: {values}")
        return self


class SoundOptim(Optim):
    """DAC's settings, which networks on samples need; `clip` is far above the usual norm, and catches what is not."""

    lr: Annotated[float, Field(gt=0)] = 1e-4
    betas: Annotated[list[float], Field(min_length=2, max_length=2)] = [0.8, 0.99]
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    clip: Annotated[float, Field(gt=0)] = 1000.0
    schedule: Literal["cosine", "linear", "exponential", "wsd", "constant"] = "linear"
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.999
