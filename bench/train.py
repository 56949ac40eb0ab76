"""One training step: ours against transformers' MusicGen decoder and x-transformers, on one CPU, in one run.

    python bench/train.py            both sizes, float32 and bfloat16; some 20 minutes on 2 cores
    python bench/train.py --quick    the smaller size only; below 10 minutes, half of it compilation

Every contestant has the same width, depth, heads, window, batch, codebooks and outputs, learns the same batch with
fused AdamW and clipping at 1, and is there twice, eager and compiled (torch.compile with static shapes: theirs whole
with their loss, ours block by block, as `train.compile` does).

ours            the default decoder (RMS norm, rotary positions, SwiGLU, QK norm) in `training.engine.train_step`: what
                `partimento train` repeats, with its guard, sums and deterministic algorithms; no averaged weights
musicgen        transformers' MusicgenForCausalLM with its own loss (labels=): layer norm, sinusoidal positions, GELU
x-transformers  MultiInputTransformerWrapper (K embeddings summed, K heads) over Decoder with rotary positions, RMS
                norm, SwiGLU and its fast attention; cross entropy of every head. No QK norm, which would slow it down.

They take turns (the machine may be shared); medians are compared, after warm-up. `ratio`: against the best peer of that
size and precision, eager or compiled. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import clip_grad_norm_
from transformers import MusicgenDecoderConfig, MusicgenForCausalLM
from x_transformers import Decoder, MultiInputTransformerWrapper

from partimento.config import RvqConfig
from partimento.models.decoder import CodeDecoder, DecoderConfig
from partimento.training import devices
from partimento.training.engine import train_step
from partimento.training.objective import CodesObjective
from partimento.training.parallel import Parallel
from partimento.training.state import State
from partimento.training.task import Task

CODEBOOKS, VOCABULARY, CONTEXT = 9, 1024, 512
LR, WEIGHT_DECAY, BETAS, CLIP = 1e-4, 0.05, (0.9, 0.95), 1.0
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Size:
    name: str
    width: int
    layers: int
    heads: int
    batch: int


SIZES = [Size("d=256 L=6", 256, 6, 4, 4), Size("d=512 L=12", 512, 12, 8, 2)]


@dataclass(frozen=True)
class Contestant:
    step: Callable[[], object]
    loss: Callable[[], float]
    """Nats a code, of the last step."""
    parameters: int


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--quick", action="store_true", help="the smaller size only, fewer repetitions")
    quick = arguments.parse_args().quick
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, K={CODEBOOKS} V={VOCABULARY} ctx={CONTEXT}")
    print(f"{'size':<12}{'':6}{'contestant':<26}{'parameters':>12}{'frames/s':>10}{'ratio to best peer':>20}")
    results = []
    for size in SIZES[: 1 if quick else None]:
        for precision in ("fp32", "bf16"):
            torch.compiler.reset()
            results += table(size, precision, repetitions=5 if quick else 7)
    print(json.dumps({"bench": "train", "threads": torch.get_num_threads(), "results": results}))


def table(size: Size, precision: str, repetitions: int) -> list[dict[str, Any]]:
    torch.manual_seed(0)
    grid_BSK = torch.randint(0, VOCABULARY, (size.batch, CONTEXT + 1, CODEBOOKS))
    contestants: dict[str, Contestant] = {}
    for compiling in (False, True):
        way = "compiled" if compiling else "eager"
        contestants[f"ours {way}"] = ours(size, precision, grid_BSK, compiling)
        contestants[f"musicgen {way}"] = musicgen(size, precision, grid_BSK, compiling)
        contestants[f"x-transformers {way}"] = x_transformers(size, precision, grid_BSK, compiling)
    first = warm_up(contestants)
    seconds = take_turns({name: one.step for name, one in contestants.items()}, repetitions)
    for name, one in contestants.items():
        # All begin near ln V, what a model that knows nothing pays, and learn the batch that they see again and again.
        assert abs(first[name] - math.log(VOCABULARY)) < 0.7 and one.loss() < first[name], (
            name,
            first[name],
            one.loss(),
        )
    rates = {name: size.batch * CONTEXT / value for name, value in seconds.items()}
    best = max(rate for name, rate in rates.items() if not name.startswith("ours"))
    rows = []
    for name, rate in rates.items():
        count = contestants[name].parameters
        print(f"{size.name:<12}{precision:6}{name:<26}{count:>12,}{rate:>10.0f}{rate / best:>20.2f}", flush=True)
        row = {"size": size.name, "precision": precision, "contestant": name, "frames_per_second": rate}
        rows.append({**row, "ratio": rate / best})
    return rows


def ours(size: Size, precision: str, grid_BSK: Tensor, compiling: bool) -> Contestant:
    config = RvqConfig.model_validate(
        {
            "family": "rvq",
            "data": {"pack": ""},
            "model": {"width": size.width, "layers": size.layers, "heads": size.heads, "tags": False},
            "optim": {
                "lr": LR,
                "betas": list(BETAS),
                "weight_decay": WEIGHT_DECAY,
                "clip": CLIP,
                "ema": 0.0,
                "batch": size.batch,
            },
            "train": {"precision": precision, "device": "cpu", "compile": compiling},
        }
    )
    decoder = CodeDecoder(
        DecoderConfig(
            codebooks=CODEBOOKS,
            rows=VOCABULARY + 3,
            outputs=VOCABULARY,
            width=size.width,
            layers=size.layers,
            heads=size.heads,
            max_positions=CONTEXT,
        )
    ).train()
    task = types.SimpleNamespace(
        module=decoder,
        objective=CodesObjective(decoder, VOCABULARY, config.loss).train(),
        inputs=lambda grid_BSK: (grid_BSK, torch.zeros(size.batch, 0), torch.ones(size.batch, dtype=torch.bool), None),
        after_step=lambda step, bad, sums, total: None,
        rival=None,
    )
    state = State(config, cast(Task, task), Parallel.join(config))

    def step() -> None:
        with devices.reproducible(CPU, False):
            train_step(state, [grid_BSK], state.counters.step, 1.0)
        state.counters.step += 1

    def loss() -> float:
        sums, _ = state.meter.read(torch.zeros(0))
        return sum(sums["ce_K"]) / sum(sums["count_K"])

    return Contestant(step, loss, state.count())


def musicgen(size: Size, precision: str, grid_BSK: Tensor, compiling: bool) -> Contestant:
    config = MusicgenDecoderConfig(
        vocab_size=VOCABULARY,
        hidden_size=size.width,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        ffn_dim=4 * size.width,
        num_codebooks=CODEBOOKS,
        max_position_embeddings=CONTEXT,
        dropout=0.0,
        pad_token_id=VOCABULARY,
        bos_token_id=VOCABULARY,
    )
    model = MusicgenForCausalLM(config).train()
    flat = grid_BSK[:, :-1].transpose(1, 2).reshape(size.batch * CODEBOOKS, CONTEXT)
    targets_BSK = grid_BSK[:, 1:].contiguous()
    return peer(model, lambda: model(input_ids=flat, labels=targets_BSK, use_cache=False).loss, precision, compiling)


def x_transformers(size: Size, precision: str, grid_BSK: Tensor, compiling: bool) -> Contestant:
    layers = Decoder(
        dim=size.width,
        depth=size.layers,
        heads=size.heads,
        attn_dim_head=size.width // size.heads,
        rotary_pos_emb=True,
        attn_flash=True,
        use_rmsnorm=True,
        ff_glu=True,
        ff_swish=True,
        ff_no_bias=True,
        ff_mult=8 / 3,
    )
    books = [str(book) for book in range(CODEBOOKS)]
    model = MultiInputTransformerWrapper(
        num_tokens=dict.fromkeys(books, VOCABULARY), max_seq_len=CONTEXT, use_abs_pos_emb=False, attn_layers=layers
    ).train()
    inputs = {book: grid_BSK[:, :-1, int(book)].contiguous() for book in books}
    targets = {book: grid_BSK[:, 1:, int(book)].flatten() for book in books}

    def loss() -> Tensor:
        logits = model(inputs)
        losses = [functional.cross_entropy(logits[book].flatten(0, 1), targets[book]) for book in books]
        return torch.stack(losses).mean()

    return peer(model, loss, precision, compiling)


def peer(model: nn.Module, loss_of: Callable[[], Tensor], precision: str, compiling: bool) -> Contestant:
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, betas=BETAS, weight_decay=WEIGHT_DECAY, fused=True)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    forward = torch.compile(loss_of, dynamic=False) if compiling else loss_of
    last: list[Tensor] = []

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with devices.autocast(CPU, precision):
            loss = forward()
        loss.backward()
        clip_grad_norm_(weights, CLIP)
        optimizer.step()
        last[:] = [loss.detach()]

    return Contestant(step, lambda: float(last[0]), sum(weight.numel() for weight in weights))


def warm_up(contestants: Mapping[str, Contestant]) -> dict[str, float]:
    """The loss of each at its first step, which compiles; a second step meets what the first left unmet."""
    first = {}
    for name, one in contestants.items():
        one.step()
        first[name] = one.loss()
        one.step()
        one.loss()
    return first


def take_turns(ways: Mapping[str, Callable[[], object]], repetitions: int) -> dict[str, float]:
    """Median seconds of each, the ways alternating; no new round after three minutes."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    started = time.perf_counter()
    for repetition in range(repetitions):
        if repetition > 2 and time.perf_counter() - started > 180:
            break
        for name, way in ways.items():
            begin = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - begin)
    return {name: statistics.median(values) for name, values in seconds.items()}


if __name__ == "__main__":
    main()
