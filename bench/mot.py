"""The mixture against a plain `transformers` Llama of the same size: training and playing, one machine, one run.

    python bench/mot.py                  some 25 minutes on 2 cores
    python bench/mot.py --size d=512     one size only
    python bench/mot.py --torch-products --only training      how much of it is the library of the matrix products
    python bench/mot.py --quick          under 2 minutes: the smaller size, few repetitions
    python bench/mot.py --device cuda    a 1B backbone in bfloat16, steps as CUDA graphs

Both sides see [caption][codes of a flat grid, one block of 2048 codes for all books] and learn the codes alone: same
lengths, batch and precision. Multiply-adds of all matrices are counted, experts and head too (attention's own products
not: they are equal). With us the caption passes the backbone alone, with them all tokens pass everything; so theirs is
made as wide as it takes for a step to cost the same (to 2 %, asserted):

full      everything is trained. Theirs: LlamaForCausalLM with a wider feed-forward in place of experts
adapters  the backbone is frozen; experts, input and output rows of the codes are trained. Theirs: LlamaForCausalLM,
          frozen, with a trained expert of the same kind (down, GELU network, up) beside each feed-forward, its
          embedding and output matrix trained

A step is forward, backward, clipping at 1 and fused AdamW; `ratio` is audio tokens/s of ours over theirs (goal 0.9).
Playing is `generate` of both after the same captions, greedy or sampled (top-k 250), text included. Theirs is a
LlamaForCausalLM that is as wide as a row of ours costs; `ratio` is positions/s of ours over theirs (goal 5). Ours:
growing and static (operator by operator), native (compile=True on a CPU: one call of C++ a row, its cache filled in
place), and that with bfloat16 or int8 weights; on a GPU recorded (compile=True, static). A delayed row is a whole
frame, K codes, where theirs plays one: `audio` is the same ratio in seconds of audio. Turns are taken, medians
compared. Last: 10 s of audio as flat rows (K a frame) and as delayed rows (one a frame). The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import clip_grad_norm_

from partimento.models import linear
from partimento.models.conditions import Told
from partimento.models.experts import ExpertConfig
from partimento.models.llama import LlamaConfig
from partimento.models.mixture import MixtureModel
from partimento.models.mixture_config import MixtureConfig
from partimento.sampling.generate import generate
from partimento.sampling.rules import Rules
from partimento.sampling.sheet import Ending
from partimento.tokens.patterns import Pattern, apply
from partimento.tokens.spec import Specials

CODES, BOOKS, RATE, TEXT, WORDS, BOS = 2048, 4, 50, 16, 256, 1
SPECIALS = Specials(eos=None, pad=CODES, bos=CODES + 1)
RULES = {"greedy": Rules(temperature=0.0), "sampled": Rules(top_k=250)}
SECONDS = 10


@dataclass(frozen=True)
class Size:
    name: str
    width: int
    layers: int
    heads: int
    kv_heads: int
    feedforward: int
    expert_width: int
    expert_inner: int
    items: int
    """Of a training step."""
    rows: int
    """Audio rows of a training window."""

    @property
    def block(self) -> int:
        """Multiply-adds of a token in a block of the backbone."""
        keys = 2 * self.width * self.kv_heads // self.heads
        return self.width * (2 * self.width + keys + 3 * self.feedforward)

    @property
    def expert(self) -> int:
        return 2 * self.expert_width * (self.width + self.expert_inner)


SIZES = [
    Size("d=128 L=4", 128, 4, 4, 2, 384, 64, 256, 8, 256),
    Size("d=256 L=6", 256, 6, 4, 2, 768, 128, 512, 4, 256),
    Size("d=512 L=8", 512, 8, 8, 4, 1536, 256, 1024, 2, 256),
]
GPU_SIZES = [Size("1B", 2048, 16, 32, 8, 8192, 1024, 4096, 4, 1024)]


def ours(size: Size, pattern: str, train: str, device: torch.device) -> MixtureModel:
    llama = LlamaConfig(
        vocabulary=WORDS,
        width=size.width,
        layers=size.layers,
        heads=size.heads,
        kv_heads=size.kv_heads,
        head_width=size.width // size.heads,
        feedforward=size.feedforward,
        norm_eps=1e-5,
        rope_theta=500000.0,
        rope_scaling=None,
        tied=False,
        max_positions=8192,
        bos=BOS,
    )
    config = MixtureConfig(
        llama=llama,
        codebooks=BOOKS,
        rows=SPECIALS.rows,
        outputs=CODES,
        pad_row=SPECIALS.pad,
        vocabulary="shared" if pattern == "flat" else "own",
        max_positions=SECONDS * RATE * BOOKS + BOOKS,
        experts=ExpertConfig(width=size.expert_width, inner=size.expert_inner),
    )
    return MixtureModel(config, "all" if train == "full" else "none").to(device)


class Beside(nn.Module):
    """A feed-forward of transformers and an expert that reads the same."""

    def __init__(self, mlp: nn.Module, width: int, narrow: int, inner: int) -> None:
        super().__init__()
        shapes = (width, narrow), (narrow, inner), (inner, narrow), (narrow, width)
        self.mlp = mlp
        self.down, self.first, self.second, self.up = (nn.Linear(a, b, bias=False) for a, b in shapes)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(x) + self.up(self.second(functional.gelu(self.first(self.down(x)))))


def theirs(size: Size, device: torch.device, feedforward: int, inner: int | None = None) -> Any:
    """With `inner` frozen, but for experts, embedding and head."""
    config = transformers.LlamaConfig(
        vocab_size=WORDS + CODES + 1,
        hidden_size=size.width,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.kv_heads,
        intermediate_size=feedforward,
        max_position_embeddings=8192,
        tie_word_embeddings=False,
        bos_token_id=BOS,
        eos_token_id=None,
        pad_token_id=0,
    )
    model: Any = transformers.LlamaForCausalLM(config)
    if inner is not None:
        model.requires_grad_(False)
        for layer in model.model.layers:
            layer.mlp = Beside(layer.mlp, size.width, size.expert_width, inner)
        model.get_input_embeddings().requires_grad_(True)
        model.lm_head.requires_grad_(True)
    return model.to(device)


@dataclass(frozen=True)
class Cost:
    """Multiply-adds of a pass over an item forwards: of matrices that are trained, and of those that are frozen.

    Backwards, each costs as much for the gradient of what it reads, and a trained one as much again for its own. Text
    that nothing trained touches is not gone through backwards.
    """

    trained: float
    frozen: float
    forward_only: float = 0.0

    @property
    def step(self) -> float:
        return 3 * self.trained + 2 * self.frozen + self.forward_only


def our_cost(size: Size, train: str) -> Cost:
    # Of its text the last block computes keys and values only.
    text = TEXT * ((size.layers - 1) * size.block + 2 * size.width**2 * size.kv_heads / size.heads)
    rows = size.rows * size.layers * size.block
    mine = size.rows * (size.layers * size.expert + size.width * CODES)
    return Cost(text + rows + mine, 0.0) if train == "full" else Cost(mine, rows, text)


def their_cost(size: Size, feedforward: int, inner: int | None) -> Cost:
    tokens = TEXT + size.rows
    blocks = size.layers * (size.block + 3 * size.width * (feedforward - size.feedforward))
    head = size.width * (WORDS + CODES + 1)
    if inner is None:
        return Cost(tokens * (blocks + head), 0.0)
    beside = size.layers * 2 * size.expert_width * (size.width + inner)
    return Cost(tokens * (beside + head), tokens * blocks)


def as_wide(size: Size, train: str) -> tuple[int, int | None]:
    """(feed-forward, inner width of experts or None) with which a step of theirs costs what one of ours does."""
    goal = our_cost(size, train).step

    def off(width: int) -> float:
        found = (width, None) if train == "full" else (size.feedforward, width)
        return abs(their_cost(size, *found).step - goal)

    best = min(range(8, 8 * size.feedforward, 8), key=off)
    found = (best, None) if train == "full" else (size.feedforward, best)
    assert off(best) < 0.02 * goal, (size, train, off(best) / goal)
    return found


def texts(items: int, device: torch.device) -> tuple[Tensor, Tensor]:
    text_BM = torch.randint(2, WORDS, (items, TEXT), device=device)
    text_BM[:, 0] = BOS
    return text_BM, torch.ones_like(text_BM, dtype=torch.bool)


def trainer(model: nn.Module, loss_of: Callable[[], Tensor], device: torch.device) -> Callable[[], float]:
    """A step as in training; the loss of it, in nats a code, which is read."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=1e-3, weight_decay=0.0, fused=True)
    model.train()

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16) if device.type == "cuda" else nullcontext():
            loss = loss_of()
        loss.backward()
        clip_grad_norm_(weights, 1.0)
        optimizer.step()
        return float(loss.detach())

    return step


def training(size: Size, train: str, device: torch.device, repetitions: int) -> dict[str, Any]:
    torch.manual_seed(0)
    codes_BTK = torch.randint(0, CODES, (size.items, size.rows // BOOKS + 1, BOOKS))
    grid_BSK = apply(codes_BTK, Pattern.named("flat", BOOKS), SPECIALS, ends=False)[:, : size.rows + 1].to(device)
    text_BM, mask_BM = texts(size.items, device)
    keep_B = torch.ones(size.items, dtype=torch.bool, device=device)
    model = ours(size, "flat", train, device)

    def our_loss() -> Tensor:
        told = model.told(text_BM, mask_BM, keep_B)
        found = model.decoder.loss(grid_BSK[:, :-1], grid_BSK[:, 1:], CODES, **told.arguments())
        return found.total / found.count

    # The same tokens, and as many of them: the id CODES begins the audio.
    audio_BS = WORDS + codes_BTK.flatten(1)[:, : size.rows - 1].to(device)
    begin_B1 = torch.full((size.items, 1), WORDS + CODES, device=device)
    ids_BN = torch.cat([text_BM, begin_B1, audio_BS], dim=1)
    labels_BN = ids_BN.clone()
    labels_BN[:, : TEXT + 1] = -100
    other = theirs(size, device, *as_wide(size, train))

    def their_loss() -> Tensor:
        return other(input_ids=ids_BN, labels=labels_BN, use_cache=False).loss

    steps = {"ours": trainer(model, our_loss, device), "theirs": trainer(other, their_loss, device)}
    first = {side: step() for side, step in steps.items()}
    seconds = take_turns(steps, repetitions, device)
    last = {side: step() for side, step in steps.items()}
    assert all(last[side] < first[side] for side in steps), (first, last)  # both learn their one batch
    rate = {side: size.items * size.rows / took for side, took in seconds.items()}
    costs = {"ours": our_cost(size, train).step, "theirs": their_cost(size, *as_wide(size, train)).step}
    found: dict[str, Any] = {
        "size": size.name,
        "trained": train,
        "ratio": rate["ours"] / rate["theirs"],
        "tokens_per_second": rate,
    }
    found["gflop_per_item"] = {side: 2 * cost / 1e9 for side, cost in costs.items()}
    shown = "".join(f"{rate[side]:>11.0f}" for side in rate) + f"{found['ratio']:>8.2f}"
    print(f"{size.name:<11}{train:<9}{shown}{2 * costs['ours'] / 1e9:>14.2f}", flush=True)
    return found


def told_of(model: MixtureModel, items: int) -> Told:
    text_BM, mask_BM = texts(items, model.decoder.embedding.device)
    return model.told(text_BM, mask_BM, torch.ones(items, dtype=torch.bool, device=text_BM.device))


@torch.inference_mode()
def play_ours(model: MixtureModel, pattern: str, items: int, rows: int, rules: Rules, way: Mapping[str, Any]) -> int:
    """Plays about so many rows; how many it was."""
    made = Pattern.named(pattern, BOOKS)
    frames = rows // made.stride
    rows = made.steps(frames, ends=False)
    request: dict[str, Any] = {
        "frames": frames,
        "seeds": range(items),
        "rules": rules,
        "context": rows,
        "told": told_of(model, items),
    }
    played = generate(model.decoder, made, SPECIALS, ending=Ending("never"), **request, **way)
    assert len(played) == items and all(len(item.codes_TK) == frames for item in played)
    return rows - 1


@torch.inference_mode()
def play_theirs(model: Any, items: int, rows: int, rules: Rules) -> int:
    ids_BM, mask_BM = texts(items, model.device)
    chosen = {"do_sample": True, "top_k": rules.top_k} if rules.temperature else {"do_sample": False}
    lengths = {"min_new_tokens": rows, "max_new_tokens": rows}
    ids_BN = model.generate(ids_BM, attention_mask=mask_BM.long(), **lengths, **chosen)
    assert ids_BN.shape == (items, TEXT + rows)
    return rows


def ways_of(device: torch.device) -> dict[str, dict[str, Any]]:
    if device.type == "cuda":
        recorded: dict[str, Any] = {"static": True, "compile": True}
        return {"static": {"static": True}, "recorded": recorded, "recorded int8": {**recorded, "weights": "int8"}}
    return {
        "growing": {"static": False},
        "static": {"static": True},
        "native": {"compile": True},
        "native bf16": {"compile": True, "weights": "bf16"},
        "native int8": {"compile": True, "weights": "int8"},
    }


def playing(size: Size, batches: list[int], device: torch.device, rows: int, turns: int) -> list[dict[str, Any]]:
    torch.manual_seed(0)
    ways = ways_of(device)
    models = {pattern: ours(size, pattern, "adapters", device).eval() for pattern in ("flat", "delay")}
    # A row of audio: backbone, experts and the one block of outputs that is drawn from.
    row = size.layers * (size.block + size.expert) + size.width * CODES
    spare = row - size.width * (WORDS + CODES + 1) - size.layers * size.block
    other = theirs(size, device, size.feedforward + round(spare / (3 * size.width * size.layers))).eval()
    other.generation_config.eos_token_id = None
    if device.type == "cuda":
        for model in (*models.values(), other):
            model.bfloat16()
    results = []
    for items in batches:
        for rule, rules in RULES.items():
            runs: dict[str, Callable[[], int]] = {"theirs": partial(play_theirs, other, items, rows, rules)}
            for way, request in ways.items():
                for pattern, model in models.items():
                    runs[f"{way} {pattern}"] = partial(play_ours, model, pattern, items, rows, rules, request)
            made = {name: run() for name, run in runs.items()}  # compiles, and is not counted
            seconds = take_turns(runs, turns, device)
            rate = {name: made[name] / seconds[name] for name in runs}
            for name in list(runs)[1:]:
                way, _, pattern = name.rpartition(" ")
                ratio = rate[name] / rate["theirs"]
                result: dict[str, Any] = {
                    "size": size.name,
                    "batch": items,
                    "rule": rule,
                    "way": way,
                    "pattern": pattern,
                }
                audio = ratio * (BOOKS if pattern == "delay" else 1)
                rates = {"positions_per_second": rate[name], "theirs": rate["theirs"]}
                results.append({**result, "ratio": ratio, "audio_ratio": audio, **rates})
                shown = f"{rate[name]:>9.0f}{rate['theirs']:>9.0f}{ratio:>7.2f}{audio:>7.2f}"
                print(f"{size.name:<11}{items:>3}  {rule:<9}{way:<15}{pattern:<7}{shown}", flush=True)
    return results


def grids(size: Size, device: torch.device, turns: int) -> list[dict[str, Any]]:
    """One item of 10 s by the fastest way in full precision, and what its cache takes."""
    way = ways_of(device)["recorded" if device.type == "cuda" else "native"]
    models = {pattern: ours(size, pattern, "adapters", device).eval() for pattern in ("flat", "delay")}
    rows = {pattern: Pattern.named(pattern, BOOKS).steps(SECONDS * RATE, ends=False) for pattern in models}
    runs = {
        pattern: partial(play_ours, model, pattern, 1, SECONDS * RATE * (BOOKS if pattern == "flat" else 1),
                         RULES["sampled"], way)
        for pattern, model in models.items()
    }  # fmt: skip
    for run in runs.values():
        run()
    seconds = take_turns(runs, turns, device)
    results = []
    for pattern, took in seconds.items():
        decoder = models[pattern].decoder
        cache = decoder.make_cache(1, rows[pattern], static=False)
        with torch.inference_mode():
            prefix = told_of(models[pattern], 1).prefix
            assert prefix is not None
            decoder.remember(cache, prefix)
        kept = sum(x.numel() * x.element_size() for x in (*cache.keys, *cache.values))
        result = {"pattern": pattern, "positions_per_second_of_audio": rows[pattern] / SECONDS, "seconds": took}
        results.append({"size": size.name, **result, "real_time": SECONDS / took, "cache_bytes": kept})
        shown = f"{rows[pattern] / SECONDS:>11.1f}{took:>9.2f}{SECONDS / took:>10.2f}{kept / 2**20:>11.2f}"
        print(f"{size.name:<11}{pattern:<7}{shown}", flush=True)
    return results


def take_turns(runs: Mapping[str, Callable[[], object]], turns: int, device: torch.device) -> dict[str, float]:
    """Median seconds of each."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(turns):
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the smaller size, few repetitions")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--torch-products", action="store_true", help="without oneDNN in place of MKL on our side")
    parser.add_argument("--size", help="the sizes whose name begins so")
    parser.add_argument("--only", choices=("training", "playing", "grids"))
    arguments = parser.parse_args()
    device, quick = torch.device(arguments.device), arguments.quick
    if arguments.torch_products:
        linear._SMALL = linear._SMALL_PACKED = 2**62  # multiply-adds below which a product is torch's own
    sizes = GPU_SIZES if device.type == "cuda" else SIZES[: 1 if quick else None]
    sizes = [size for size in sizes if size.name.startswith(arguments.size or "")]
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, {where}")
    found: dict[str, list[dict[str, Any]]] = {"training": [], "playing": [], "grids": []}
    chosen = [arguments.only] if arguments.only else list(found)
    if "training" in chosen:
        print(f"\n{'size':<11}{'trained':<9}{'ours tok/s':>11}{'theirs':>11}{'ratio':>8}{'GFLOP an item':>14}")
        for size in sizes:
            for train in ("adapters", "full"):
                found["training"].append(training(size, train, device, 5 if quick else 15))
    if "playing" in chosen:
        rates = f"{'pos/s':>9}{'theirs':>9}{'ratio':>7}{'audio':>7}"
        print(f"\n{'size':<11}{'B':>3}  {'rule':<9}{'way':<15}{'grid':<7}{rates}")
        for size in sizes:
            found["playing"] += playing(size, [1, 4], device, 120 if quick else 252, 3 if quick else 5)
    if "grids" in chosen:
        print(f"\n{'size':<11}{'grid':<7}{'positions/s':>11}{'10 s in':>9}{'x real':>10}{'cache MiB':>11}")
        for size in sizes:
            found["grids"] += grids(size, device, 1 if quick else 3)
    print(json.dumps({"bench": "mot", "device": where, **found}))


if __name__ == "__main__":
    main()
