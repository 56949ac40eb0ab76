"""A trained codec leaves its run: weights in half precision, and a card of what they are and how they measure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from partimento import commit
from partimento.codecs.measure import Passage, passage, summary
from partimento.codecs.resident import ResidentCodec, from_weights, pack_weights, read_network, spec_of, write_codec
from partimento.config import CodecConfig, parse
from partimento.errors import PartimentoError
from partimento.progress import Progress, Quiet
from partimento.runs import checkpoint, published
from partimento.runs.run import Run
from partimento.training.tasks.crops import Recording, Sound, gather
from partimento.waveform.autoencoder import AutoencoderConfig, decides_codes


def export_resident(
    run: str | Path,
    folder: str | Path,
    *,
    name: str | None = None,
    weights: Literal["ema", "raw"] = "ema",
    licence: str | None = None,
    measured: bool = True,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write weights.safetensors and card.json of a run of the `codec` family into `folder`; returns the card.

    `name` is what packs of its codes call it: that of the codec whose codes the run kept (`model.freeze_codes`), whose
    packs then fit, else the folder's name, unless it is given.

    Takes the checkpoint with the best validation, or the newest where none was validated (averaged weights, if it has
    any), and measures it on every held-out recording, which the run's data must still be there for, unless `measured`
    is False: then the card goes without what cannot be read. `licence` is what whoever trained it gives the weights,
    None where nobody said. Raises WEIGHTS008
    (`folder` exists: packs may need what is in it), CODEC007 (not a codec's run, or nothing trained yet), CODEC041
    (model.weights changed), RUN, CKPT.
    """
    published.require_absent(Path(folder))
    progress = progress or Quiet()
    record = Run.open(Path(run)).record
    config = parse(record["config"], name="the run's configuration")
    checkpoints = Run.open(Path(run)).checkpoints_path
    best = checkpoint.best(checkpoints)
    path = best or checkpoint.newest(checkpoints, note=progress.note)
    if not isinstance(config, CodecConfig) or path is None:
        raise PartimentoError(
            "CODEC007",
            f"there is no codec to export in {run}",
            why=f"its family is {config.family}" if path is not None else "it has no checkpoint yet",
            next="partimento train configs/experiments/resident_44k.toml",
        )
    part = "ema" if config.optim.ema > 0 and weights == "ema" else "model"
    saved = checkpoint.load(path, [part])
    chosen = f"the best of its validations, {saved.state['score']:.4g}" if best else "its newest: none was validated"
    progress.note(f"{path.name} is exported, {chosen}")
    sample_rate = saved.state["description"]["sample_rate"]
    sound = _heard(config, sample_rate, saved.state["identity"], measured, progress)
    network = AutoencoderConfig.from_json(saved.state["description"]["network"])
    content = pack_weights({**saved.parts[part], **_kept(config, saved.state["identity"])})
    card = {
        "schema": 1,
        "name": name or _kept_name(config) or Path(folder).resolve().name,
        "description": _described(network),
        "licence": licence,
        **saved.state["description"],
        "weights_bytes": len(content),
        "data": {
            "credits": config.data.credits,
            "train": None if sound is None else _amounts(sound.train, sample_rate),
            "held_out": None if sound is None else _amounts(sound.held_out, sample_rate),
            "identity": saved.state["identity"],
        },
        "recipe": _recipe(config, saved.step, part),
    }
    codec = from_weights(content, card)
    card = codec.card
    card["figures"] = None if sound is None else _figures(codec, sound, progress)
    with commit.folder(Path(folder)) as made:
        write_codec(made, content, card)
    return card


def _heard(
    config: CodecConfig, sample_rate: int, identity: Mapping[str, Any], measured: bool, progress: Progress
) -> Sound | None:
    """The run's recordings; None where they cannot be read, unless they must be `measured`."""
    try:
        sound = gather(config.data, sample_rate)
    except PartimentoError as err:
        if measured:
            raise
        progress.note(f"the card has no figures: the recordings cannot be read ({err.code}: {err.message})")
        return None
    if any(identity[side] != found for side, found in sound.identity().items()):
        progress.note("the recordings changed since the training; the figures are of those that are there now")
    return sound


def _figures(codec: ResidentCodec, sound: Sound, progress: Progress) -> dict[str, Any]:
    """Every held-out recording through the codec, by kind."""
    progress.stage("measure", "held-out recordings go through the codec, so that the card can say how it does")
    passages: defaultdict[str, list[Passage]] = defaultdict(list)
    for number, recording in enumerate(sound.held_out, 1):
        passages[recording.kind].append(passage(codec, recording.wave_N))
        progress.update(number, len(sound.held_out), mel7=round(passages[recording.kind][-1].mel7, 3))
    figures = {kind: summary(codec, found).to_json() for kind, found in sorted(passages.items())}
    figures["all"] = summary(codec, [one for found in passages.values() for one in found]).to_json()
    return {**figures, "threads": torch.get_num_threads(), "measured_on": sound.identity()["held_out"]}


def _kept(config: CodecConfig, identity: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors that a training of the decoder alone kept, which its checkpoints do not repeat. Raises CODEC041."""
    if config.model.weights is None or not config.model.freeze_codes:
        return {}
    network, tensors, card = read_network(config.model.weights)
    if spec_of(card).weights != identity["codes"]:
        raise PartimentoError(
            "CODEC041",
            f"the codec {config.model.weights} is not the one whose codes this run kept",
            where=config.model.weights,
            why=f"its codes are {spec_of(card).weights[:12]}, and the run's were {str(identity['codes'])[:12]}",
            next="put the codec back that the run began with, then export again",
        )
    return {name: tensor for name, tensor in tensors.items() if decides_codes(name, network)}


def _described(network: AutoencoderConfig) -> str:
    trunks = {
        "mdct": "ConvNeXt blocks between MDCT frames",
        "stft": "ConvNeXt blocks to complex STFT frames",
        "dual": "ConvNeXt blocks to complex STFT frames of short and of long windows",
        "dac": "DAC's convolutions on samples",
    }
    books = {"averaged": "residual vector quantizer", "factorised": "DAC's factorised residual vector quantizer"}
    encoder, decoder = trunks[network.encoder], trunks[network.decoder]
    return f"Neural audio codec, mono. Encoder: {encoder}. Decoder: {decoder}. Codes: {books[network.lookup]}."


def _kept_name(config: CodecConfig) -> str | None:
    if not config.model.freeze_codes or config.model.weights is None:
        return None
    return str(read_network(config.model.weights)[2]["name"])


def _amounts(recordings: list[Recording], sample_rate: int) -> dict[str, dict[str, float]]:
    """Recordings and minutes of each kind."""
    amounts: defaultdict[str, dict[str, float]] = defaultdict(lambda: {"recordings": 0, "minutes": 0.0})
    for recording in recordings:
        amounts[recording.kind]["recordings"] += 1
        amounts[recording.kind]["minutes"] += len(recording.wave_N) / sample_rate / 60
    return {kind: {k: round(v, 2) for k, v in amount.items()} for kind, amount in sorted(amounts.items())}


def _recipe(config: CodecConfig, steps: int, part: str) -> dict[str, Any]:
    """The configuration without the places of this machine, and how far it was followed."""
    tree = config.model_dump(mode="json")
    tree["data"]["folders"] = [Path(folder).name for folder in config.data.folders]
    if config.model.weights is not None:
        tree["model"]["weights"] = Path(config.model.weights).name
    return {
        "steps": steps,
        "weights": part,
        "config": {name: tree[name] for name in ("data", "model", "loss", "adversary", "optim", "train")},
    }
