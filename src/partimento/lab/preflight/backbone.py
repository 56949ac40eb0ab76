"""Checks of a mixture's backbone and experts: it reads text as it did before, where experts begin at nothing it plays
alone, and what was taken from another model is in them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from partimento.config import MotConfig
from partimento.keyed import torch_generator
from partimento.lab.preflight.bench import Bench
from partimento.lab.preflight.check import Check, failed, passed, skipped, some
from partimento.models.experts import Expert, ExpertConfig
from partimento.models.mixture import MixtureDecoder, MixtureModel
from partimento.runs import backbones, transplanted
from partimento.training.mixing import Narrow
from partimento.training.objective import tell

COPIES = ("full", "feedforward_copy")  # kinds of experts that are drawn from nothing
ROUNDING = 1e-4  # of the largest logit, between a copy of the backbone's matrices and the matrices themselves


def backbone_kept(bench: Bench) -> Check:
    """What the backbone says of text does not depend on what was put beside it, to the last bit; and experts that begin
    by adding nothing do."""
    model, task = bench.mixture, bench.codes
    if model is None or task is None:
        return skipped("backbone", "the model has none")
    batch = bench.batch_where(kept=True)
    condition, keep_B = task.condition(batch)
    text_BM, mask_BM = (tensor.to(bench.device) for tensor in condition)
    keep_B, grid_BSK = keep_B.to(bench.device), batch.grid_BSK[:, :-1].to(bench.device).long()
    model.eval()
    with torch.no_grad():
        before = _of_text(model, text_BM, mask_BM, keep_B)
        with _shaken(model):
            after = _of_text(model, text_BM, mask_BM, keep_B)
        told = tell(model, [text_BM, mask_BM], keep_B).arguments()
        played = model.decoder(grid_BSK, **told)
        with _without_experts(model.decoder):
            alone = model.decoder(grid_BSK, **told)
    model.train()
    moved = [float((a - b).abs().max()) for a, b in zip(before, after, strict=True) if not torch.equal(a, b)]
    if moved:
        found = (
            f"logits, keys or values of text move by up to {max(moved):.2g} when what is beside the backbone changes"
        )
        return failed("backbone", found, "experts are for rows of audio: text passes the stock Llama alone")
    told_text = "what is read of text is to the last bit the same without experts"
    if bench.weights or model.decoder.config.experts.kind == "none":
        return passed("backbone", told_text)
    off = float((played - alone).abs().max() / alone.abs().max())
    if model.decoder.config.experts.place == "instead" and model.decoder.config.experts.kind == "feedforward":
        moves = f"experts stand instead of its feed-forward, which moves the logits of codes by {100 * off:.2g} %"
        return passed("backbone", f"{told_text}; {moves}")
    if off > ROUNDING:
        found = f"before the first step the experts move the logits of codes by {100 * off:.2g} %"
        return failed(
            "backbone", found, "their last matrix begins with zeros, a copy as what it copies: undo the change"
        )
    return passed("backbone", f"{told_text}; before the first step audio rows pass as if there were none")


def experts_taken(bench: Bench) -> Check:
    """What experts were to take from another model is in them, number for number; and a table of it."""
    model, config = bench.mixture, bench.config
    if model is None or not isinstance(config, MotConfig) or config.model.experts_from is None:
        return skipped("experts", "none were taken from another model")
    told = bench.task.description["experts"]
    table = transplanted.table(told)
    if bench.weights:
        return passed("experts", table.summary, table.lines())
    donor = backbones.read_musicgen_feedforwards(config.model.experts_from)
    ups = {up: tensor for (up, _), tensor in zip(donor.names_L, donor.up_L, strict=True)}
    downs = {down: tensor for (_, down), tensor in zip(donor.names_L, donor.down_L, strict=True)}
    theirs, wrong = ups | downs, []
    for row in told["report"]["rows"]:
        layer = model.decoder.get_submodule(row["name"].removesuffix(".weight"))
        if row["origin"] is not None and not _same(layer, theirs[row["origin"]]):
            wrong.append(f"{row['name']} is not {row['origin']}")
    if wrong:
        found = f"{some(wrong)}, of {donor.source}"
        return failed("experts", found, "something draws or changes them after they were copied: undo the change")
    return passed("experts", table.summary, table.lines())


def _same(layer: nn.Module, taken: Tensor) -> bool:
    """To the last bit, of a frozen matrix that is kept in bfloat16 of what bfloat16 keeps of it."""
    assert isinstance(layer, nn.Linear)
    if isinstance(layer, Narrow):
        taken = taken.to(torch.bfloat16).float()
    return torch.equal(layer.weight.detach().cpu(), taken)


def _of_text(model: MixtureModel, text_BM: Tensor, mask_BM: Tensor, keep_B: Tensor) -> list[Tensor]:
    """Logits of the texts, and what is left of them for the rows behind."""
    prefix = model.told(text_BM, mask_BM, keep_B).prefix
    assert prefix is not None
    return [model.llama(text_BM), *prefix.keys_L, *prefix.values_L]


@contextmanager
def _shaken(model: MixtureModel) -> Iterator[None]:
    """Everything beside the backbone is noise."""
    own = {id(weight) for weight in model.llama.parameters()}
    beside = [weight for weight in model.parameters() if id(weight) not in own]
    kept = [weight.detach().clone() for weight in beside]
    generator = torch_generator("preflight", "backbone")
    try:
        for weight in beside:
            weight.copy_(torch.randn(weight.shape, generator=generator))
        yield
    finally:
        for weight, before in zip(beside, kept, strict=True):
            weight.copy_(before)


@contextmanager
def _without_experts(decoder: MixtureDecoder) -> Iterator[None]:
    kept, nothing = decoder.experts, ExpertConfig(kind="none")
    decoder.experts = nn.ModuleList(Expert(nothing, decoder.config.llama) for _ in kept)
    try:
        yield
    finally:
        decoder.experts = kept


def shape_told(decoder: MixtureDecoder) -> str:
    """The backbone's sizes and what is beside it."""
    llama, experts = decoder.config.llama, decoder.config.experts
    told = f"experts {experts.kind}"
    if experts.kind == "feedforward":
        place = {"beside": "beside", "instead": "instead of"}[experts.place]
        told += f", width {experts.width}, feedforward {experts.inner}, {place} Llama's own"
    elif experts.kind in ("bottleneck", "lora"):
        told += f", rank {experts.rank}"
    return f"backbone of {llama.layers} layers, width {llama.width}, {llama.heads} heads of {llama.head_width}; {told}"


def kinds(decoder: MixtureDecoder, transplanted: bool) -> Iterator[tuple[str, float, float, int]]:
    """(name, expected std, actual, numbers) of what is drawn beside the backbone, over all layers together, as
    `MixtureDecoder` and `models.experts` document them; copies are not drawn (`backbone_kept` compares them)."""
    config, llama = decoder.config, decoder.llama
    rows_BRD = decoder.embedding.detach().view(config.blocks, config.rows, -1)
    drawn_R = torch.arange(config.rows, device=rows_BRD.device) != config.pad_row
    std = float(llama.embedding.weight.detach()[:4096].float().std()) / config.blocks**0.5
    yield _spread("embedding", std, [rows_BRD[:, drawn_R]])
    yield _spread("embedding of PAD", 0.0, [rows_BRD[:, config.pad_row]])
    gain = float(llama.norm.weight.detach().float().square().mean().sqrt())
    yield _spread("head", 0.2 / (gain * config.llama.width**0.5), [decoder.head.weight])
    pooled: dict[str, list[Tensor]] = {}
    for name, weight in decoder.experts.named_parameters():
        pooled.setdefault(name.partition(".")[2], []).append(weight)
    for name, tensors in pooled.items():
        last = name.partition(".")[0]
        if config.experts.kind in COPIES or (transplanted and last in ("up", "down")):
            continue
        fan_in = tensors[0].shape[1]
        if last == "lora_A":
            expected = (3 * fan_in) ** -0.5
        elif last == "lora_B" or (last.endswith("widen") and config.experts.place == "beside"):
            expected = 0.0
        else:
            expected = 0.02 / math.sqrt(2 * config.llama.layers) if last.endswith("widen") else fan_in**-0.5
        yield _spread(f"experts.{name}", expected, tensors)


def _spread(name: str, expected: float, tensors: list[Tensor]) -> tuple[str, float, float, int]:
    values = torch.cat([tensor.detach().flatten() for tensor in tensors]).double()
    return name, expected, float(values.square().mean().sqrt()), values.numel()
