"""Our code decoder against transformers' MusicgenForCausalLM: same weights, same batch, same CPU, one run.

    python bench/decoder.py            about 4 minutes on 2 cores
    python bench/decoder.py --quick    about a minute: the small model only

training   forward, cross entropy of all K codebooks, backward, fused AdamW; frames (grid rows) per second.
sampling   one call of `generate` each, delay pattern, multinomial at temperature 1, each with its own cache; rows per
           second and item. `loop` is their forward with their cache in the barest loop, without `generate`.

Ours and theirs take turns (the machine may be shared), and the medians are compared. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache, MusicgenDecoderConfig, MusicgenForCausalLM

from partimento.models.decoder import CodeDecoder
from partimento.models.loss import code_loss
from partimento.models.weights import import_musicgen, musicgen_config
from partimento.sampling.generate import generate
from partimento.sampling.rules import Rules
from partimento.tokens.patterns import Pattern
from partimento.tokens.spec import Specials

CODEBOOKS, VOCABULARY, CONTEXT = 9, 1024, 512


@dataclass(frozen=True)
class Size:
    name: str
    width: int
    layers: int
    heads: int
    batch: int  # of training


SIZES = [Size("d=256 L=6", 256, 6, 4, 4), Size("d=512 L=12", 512, 12, 8, 2)]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--quick", action="store_true", help="small model, fewer repetitions")
    quick = arguments.parse_args().quick
    repetitions = 3 if quick else 5
    results = []
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, float32, K={CODEBOOKS} V={VOCABULARY}")
    print(f"{'size':<12}{'task':<34}{'ours':>10}{'theirs':>10}{'ratio':>8}")
    for size in SIZES[: 1 if quick else None]:
        theirs, ours = build(size)
        results += [row(size.name, "training frames/s", train(size, theirs, ours, repetitions))]
        for batch in (1, 8):
            steps = 128 if size.layers < 12 else 64
            rates = sample(batch, steps, theirs, ours, 3)
            for against in ("generate", "loop"):
                task = f"sampling steps/s B={batch} ({against})"
                results += [row(size.name, task, {"ours": rates["ours"], "theirs": rates[against]})]
    print(json.dumps({"bench": "decoder", "threads": torch.get_num_threads(), "results": results}))


def build(size: Size) -> tuple[MusicgenForCausalLM, CodeDecoder]:
    torch.manual_seed(0)
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
    theirs = MusicgenForCausalLM(config)
    for name in ("pad_token_id", "bos_token_id", "decoder_start_token_id"):
        setattr(theirs.generation_config, name, VOCABULARY)
    theirs.generation_config.num_return_sequences = 1
    ours = CodeDecoder(musicgen_config(config.to_dict()))
    import_musicgen(ours, theirs.state_dict())
    return theirs, ours


def train(size: Size, theirs: MusicgenForCausalLM, ours: CodeDecoder, repetitions: int) -> dict[str, float]:
    grid_BSK = torch.randint(0, VOCABULARY, (size.batch, CONTEXT + 1, CODEBOOKS))
    inputs_BSK, targets_BSK = grid_BSK[:, :-1], grid_BSK[:, 1:].contiguous()
    flat = inputs_BSK.transpose(1, 2).reshape(size.batch * CODEBOOKS, CONTEXT)

    def our_loss() -> Tensor:
        loss = code_loss(ours(inputs_BSK), targets_BSK, VOCABULARY)
        return loss.total / loss.count

    def their_loss() -> Tensor:
        return theirs(input_ids=flat, labels=targets_BSK, use_cache=False).loss

    steps: dict[str, Callable[[], float]] = {}
    for name, module, loss_of in (("ours", ours, our_loss), ("theirs", theirs, their_loss)):
        module.train()
        steps[name] = stepper(torch.optim.AdamW(module.parameters(), lr=1e-4, fused=True), loss_of)
    first = {name: step() for name, step in steps.items()}  # the warm-up
    assert abs(first["ours"] - first["theirs"]) < 1e-3, f"not the same model: {first}"
    seconds = take_turns(steps, repetitions)
    return {name: size.batch * CONTEXT / value for name, value in seconds.items()}


def stepper(optimizer: torch.optim.Optimizer, loss_of: Callable[[], Tensor]) -> Callable[[], float]:
    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of()
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step


def sample(
    batch: int, steps: int, theirs: MusicgenForCausalLM, ours: CodeDecoder, repetitions: int
) -> dict[str, float]:
    """Grid rows per second for each item. All write `steps` rows after the first."""
    pattern, specials = Pattern.named("delay", CODEBOOKS), Specials.musicgen(VOCABULARY)
    frames = steps - pattern.max_delay
    assert pattern.steps(frames, ends=False) == steps + 1
    ours.eval()
    theirs.eval()
    start = torch.full((batch * CODEBOOKS, 1), VOCABULARY)

    def our_generate() -> None:
        played = generate(ours, pattern, specials, frames=frames, seeds=range(batch), rules=Rules(), context=CONTEXT)
        assert played[0].codes_TK.shape == (frames, CODEBOOKS)

    def their_generate() -> None:
        out = theirs.generate(start, do_sample=True, top_k=0, max_length=steps + 1, use_cache=True)
        assert out.shape == (batch, CODEBOOKS, frames)

    @torch.inference_mode()
    def their_loop() -> None:
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        ids = start
        for _ in range(steps):
            logits = theirs(input_ids=ids, past_key_values=cache, use_cache=True).logits
            ids = torch.multinomial(logits[:, -1].softmax(-1), 1)

    ways = {"ours": our_generate, "generate": their_generate, "loop": their_loop}
    seconds = take_turns(ways, repetitions)
    return {name: steps / value for name, value in seconds.items()}


def take_turns(ways: Mapping[str, Callable[[], object]], repetitions: int) -> dict[str, float]:
    """Median seconds of each, the ways alternating; one unmeasured round first, no new round after a minute."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    started = time.perf_counter()
    for repetition in range(repetitions + 1):
        if repetition > 1 and time.perf_counter() - started > 60:
            break
        for name, way in ways.items():
            begin = time.perf_counter()
            way()
            if repetition:
                seconds[name].append(time.perf_counter() - begin)
    return {name: statistics.median(values) for name, values in seconds.items()}


def row(size: str, task: str, rates: dict[str, float]) -> dict[str, str | float]:
    ratio = rates["ours"] / rates["theirs"]
    print(f"{size:<12}{task:<34}{rates['ours']:>10.1f}{rates['theirs']:>10.1f}{ratio:>8.2f}", flush=True)
    return {"size": size, "task": task, "ours": rates["ours"], "theirs": rates["theirs"], "ratio": ratio}


if __name__ == "__main__":
    main()
