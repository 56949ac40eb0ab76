"""Faults of weights: a trained run whose checkpoint was spoilt, or one that was trained by spoilt code.

All copies are of one base run of 100 steps, trained once in a process.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from partimento import commit
from partimento.models.decoder import CodeDecoder
from partimento.runs import checkpoint
from partimento.tokens.pack import Pack
from partimento.tokens.places import Places
from partimento.training.ema import Ema
from partimento.training.optim import Optimizers
from ward import Planted, toys

Change = Callable[[dict[str, Tensor]], None]
LATE = 8  # codes that the packs here keep for the ends of clips, or for held-out ones
SHORT = {"steps": 48, "train": {"save_every": 16, "valid_every": 24}}


# -- a checkpoint that was spoilt --------------------------------------------------------------------------------------


def newest(run: Path) -> Path:
    return checkpoint.visible(run / "checkpoints")[-1]


def edit(run: Path, part: str, change: Change) -> Path:
    """Changes a part of the newest checkpoint, and corrects its hash."""
    path = newest(run)
    file = path / f"{part}.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)
    told = json.loads((path / "manifest.json").read_text())
    told["files"][file.name] = {"bytes": file.stat().st_size, "sha256": commit.sha256(file)}
    (path / "manifest.json").write_text(json.dumps(told))
    return run


def nan_in_a_weight(folder: Path) -> Path:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors["blocks.1.attention.qkv.weight"][3, 5] = torch.nan

    return edit(toys.base(folder, steps=100), "model", change)


def infinity_in_the_moments(folder: Path) -> Path:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors["head.weight.exp_avg_sq"][7] = torch.inf

    return newest(edit(toys.base(folder, steps=100), "optimizer", change))


def a_byte_flipped(folder: Path) -> Path:
    run = toys.base(folder, steps=100)
    file = newest(run) / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0x10
    file.write_bytes(content)
    return run


def a_part_is_gone(folder: Path) -> Path:
    run = toys.base(folder, steps=100)
    (newest(run) / "optimizer.safetensors").unlink()
    return run


def half_written(folder: Path) -> Path:
    run = toys.base(folder, steps=100)
    file = newest(run) / "state.json"
    file.write_bytes(file.read_bytes()[:200])
    return run


def rows_copied(folder: Path) -> Path:
    def change(tensors: dict[str, Tensor]) -> None:
        table_RD = tensors["embedding"]
        rows = len(table_RD) // toys.K
        table_RD[rows + 3], table_RD[rows + 9] = table_RD[rows + 20], table_RD[rows + 20]

    return edit(toys.base(folder, steps=100), "model", change)


def a_row_blown_up(folder: Path) -> Path:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors["head.weight"][5] *= 300

    return newest(edit(toys.base(folder, steps=100), "model", change))


def two_directions(weight: Tensor) -> Tensor:
    u, s, v = torch.linalg.svd(weight, full_matrices=False)
    return (u[:, :2] * s[:2]) @ v[:2]


def rank_of_two(folder: Path) -> Path:
    def change(tensors: dict[str, Tensor]) -> None:
        name = "blocks.0.feedforward.down.weight"
        tensors[name] = two_directions(tensors[name])

    return newest(edit(toys.base(folder, steps=100), "model", change))


def the_average_is_the_weights(folder: Path) -> Path:
    run = toys.base(folder, steps=100)
    raw = load_file(newest(run) / "model.safetensors")
    return edit(run, "ema", lambda tensors: tensors.update(raw))


# -- code that was spoilt ----------------------------------------------------------------------------------------------


def trained_through_a_bottleneck(folder: Path) -> Path:
    with toys.playing() as patch:
        step = Optimizers.step

        def narrow(self: Optimizers, bad: Tensor, rate: float) -> None:
            step(self, bad, rate)
            for one in self.claims:
                if one.name.endswith("feedforward.up.weight"):
                    one.parameter.data.copy_(two_directions(one.parameter.data))

        patch.setattr(Optimizers, "step", narrow)
        return toys.train(folder, **SHORT)


def drawn_at(folder: Path, factor: float) -> Path:
    with toys.playing() as patch:
        initialise = CodeDecoder.initialise

        def scaled(self: CodeDecoder) -> None:
            initialise(self)
            with torch.no_grad():
                for weight in self.parameters():
                    if weight.ndim > 1:
                        weight.mul_(factor)

        patch.setattr(CodeDecoder, "initialise", scaled)
        plan = {"save_every": 8, "valid_every": 12}
        return toys.train(folder, steps=24, train=plan, optim={"lr": 3e-3, "warmup": 10})


def drawn_twenty_times_too_large(folder: Path) -> Path:
    return drawn_at(folder, 20.0)


def drawn_twenty_times_too_small(folder: Path) -> Path:
    return drawn_at(folder, 0.05)


def never_averaged(folder: Path) -> Path:
    with toys.playing() as patch:
        patch.setattr(Ema, "update", lambda self, bad: self.updates.add_(1))
        return toys.train(folder, **SHORT)


def averaged_too_slowly(folder: Path) -> Path:
    with toys.playing() as patch:

        def update(self: Ema, bad: Tensor) -> None:
            for name, weight in self.module.named_parameters():
                self.weights[name].lerp_(weight.detach(), 1e-5)
            self.updates.add_(1)

        patch.setattr(Ema, "update", update)
        return toys.train(folder, **SHORT)


def every_stretch_undone(folder: Path) -> Path:
    """The sign of the rate turns with every checkpoint."""
    with toys.playing() as patch:
        step, made = Optimizers.step, 0

        def turned(self: Optimizers, bad: Tensor, rate: float) -> None:
            nonlocal made
            made += 1
            step(self, bad, -rate if made > 32 else rate)

        patch.setattr(Optimizers, "step", turned)
        return toys.train(folder, steps=48, train={"save_every": 16, "valid_every": 24}, optim={"schedule": "constant"})


# -- codes that training does not show ---------------------------------------------------------------------------------


def without_late(codes_TK: toys.Codes) -> toys.Codes:
    """Its codes without the last LATE of each book."""
    return codes_TK % (toys.V - LATE)


def the_draw_never_gets_there(folder: Path) -> Path:
    """A quarter of the codes stand in the second halves of all clips, and windows are drawn from the first halves."""

    def change(codes_TK: toys.Codes, rng: np.random.Generator, clip: int) -> toys.Codes:
        half = len(codes_TK) // 2
        return np.concatenate([without_late(codes_TK[:half]), codes_TK[half:]])

    with toys.playing() as patch:
        at = Places.at

        def early(self: Places, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            clip_B, start_B = at(self, index)
            return clip_B, np.minimum(start_B, 20)

        patch.setattr(Places, "at", early)
        pack = toys.write_pack(folder / "pack", frames=(260, 400), change=change)
        return toys.train(folder, steps=150, data={"pack": str(pack)})


def only_held_out_clips_have_them(folder: Path) -> Path:
    """A quarter of the codes stand in held-out clips alone."""
    held = {str(name) for name in names_of("valid")}

    def change(codes_TK: toys.Codes, rng: np.random.Generator, clip: int) -> toys.Codes:
        return codes_TK if f"clip{clip:03d}.wav" in held else without_late(codes_TK)

    pack = toys.write_pack(folder / "pack", change=change)
    return toys.train(folder, steps=60, data={"pack": str(pack)})


def names_of(split: str) -> list[str]:
    """The clips of a side: by the hash of their sources, so it is the same in every pack of these names."""
    pack = Pack.open(toys.pack())
    return [pack.clips.clip[clip] for clip in pack.split(split)]


PLANTED = (
    Planted("non_finite", "weights", "one NaN in one weight of the newest checkpoint", nan_in_a_weight),
    Planted(
        "non_finite", "weights", "infinity in the moments of one row, the checkpoint alone", infinity_in_the_moments
    ),
    Planted("torn_checkpoint", "weights", "one bit of model.safetensors flipped", a_byte_flipped),
    Planted("torn_checkpoint", "weights", "optimizer.safetensors removed", a_part_is_gone),
    Planted("torn_checkpoint", "weights", "state.json cut off after 200 bytes", half_written),
    Planted("duplicate_rows", "weights", "the rows of three codes of a book made one", rows_copied),
    Planted("exploding_rows", "weights", "the outputs of one code made 300 times as long", a_row_blown_up),
    Planted("rank_collapse", "weights", "one matrix replaced by its two largest directions", rank_of_two),
    Planted(
        "rank_collapse", "weights", "one matrix a block cut to two directions after every step",
        trained_through_a_bottleneck, slow=True,
    ),
    Planted("wrong_init", "weights", "all matrices drawn 20 times too large", drawn_twenty_times_too_large, slow=True),
    Planted("wrong_init", "weights", "all matrices drawn 20 times too small", drawn_twenty_times_too_small),
    Planted("ema_broken", "weights", "the average counts its updates and makes none", never_averaged, slow=True),
    Planted("ema_broken", "weights", "an average of 100,000 steps in a run of 48", averaged_too_slowly, slow=True),
    Planted(
        "ema_broken", "weights", "the raw weights stored as their own average", the_average_is_the_weights
    ),
    Planted("oscillation", "weights", "the sign of the rate turned after 32 of 48 steps", every_stretch_undone),
    Planted(
        "dead_codes", "weights", "windows begin in the first 20 frames of a clip, and 8 codes of 32 come later",
        the_draw_never_gets_there, also=("fixed_crops", "loss_of_other_targets"), slow=True,
    ),
    Planted(
        "dead_codes", "weights", "8 codes of 32 stand in held-out clips alone", only_held_out_clips_have_them,
        also=("unseen_codes",), slow=True,
    ),
)  # fmt: skip
