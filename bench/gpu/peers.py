"""The same training step by others, where they are installed: transformers' MusicGen decoder, and x-transformers.

Same width, layers, heads, codebooks, context, batch, precision (bfloat16 products over float32 weights), fused AdamW.
MusicGen computes its own loss, a codebook at a time; x-transformers is a decoder with rotary positions, RMS norm and
SwiGLU of our inner width, between our sum of embeddings and our K heads, with torch's cross entropy.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from gpu.report import Bench, main, row, skipped, timed
from gpu.step import CARDINALITY, REFERENCE, TINY, Size, Training, decoder, grid
from partimento.training import devices

COMPILE_SECONDS = 60


def check(bench: Bench) -> None:
    size, window, batch = (TINY, 16, 2) if bench.quick else (REFERENCE, 512, 32)
    mine = our_rate(bench, size, window, batch)
    for name, make in (("transformers", musicgen), ("x_transformers", x_transformers)):
        if importlib.util.find_spec(name) is None:
            skipped(name, "not installed")
            continue
        for compiled in (False, True):
            case = f"{name} {'compiled' if compiled else 'eager'}"
            if compiled and (bench.quick or bench.left() < COMPILE_SECONDS):
                skipped(case, "no time to compile it")
                continue
            module, loss = make(size, window, grid(size, batch, window).to(bench.device).long())
            module.to(bench.device).train()
            if compiled:
                module.compile()
            found = rate(bench, stepper(bench, module, loss), batch * window)
            row(case, found, "frames/s", note=f"ours is {mine / found:.2f} x as fast")


def our_rate(bench: Bench, size: Size, window: int, batch: int) -> float:
    mode = "eager" if bench.quick else "compiled"
    training = Training(bench.device, size, window, precision="bf16", mode=mode)
    inputs = training.inputs(grid(size, batch, window))
    found = rate(bench, lambda: training.step(0, inputs), batch * window)
    row(f"ours, {size} ctx {window} batch {batch} bf16 {mode}", found, "frames/s")
    return found


def rate(bench: Bench, step: Callable[[], object], frames: int) -> float:
    for _ in range(2):
        step()
    return frames / timed(bench, step, 0.1 if bench.quick else 2.0, 50)


def stepper(bench: Bench, module: nn.Module, loss: Callable[[nn.Module], Tensor]) -> Callable[[], object]:
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with devices.autocast(bench.device, "bf16"):
            total = loss(module)
        total.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()

    return step


Made = tuple[nn.Module, Callable[[nn.Module], Tensor]]


def musicgen(size: Size, window: int, grid_BSK: Tensor) -> Made:
    from transformers import MusicgenDecoderConfig, MusicgenForCausalLM

    config = MusicgenDecoderConfig(
        vocab_size=CARDINALITY,
        hidden_size=size.width,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        ffn_dim=4 * size.width,
        num_codebooks=size.codebooks,
        max_position_embeddings=window,
        dropout=0.0,
        pad_token_id=CARDINALITY,
        bos_token_id=CARDINALITY,
    )
    rows = grid_BSK[:, :-1].transpose(1, 2).reshape(-1, window)
    labels = grid_BSK[:, 1:].contiguous()
    return MusicgenForCausalLM(config), lambda module: module(input_ids=rows, labels=labels, use_cache=False).loss


class _Between(nn.Module):
    """Their decoder between a sum of K embeddings and K heads."""

    def __init__(self, size: Size, window: int) -> None:
        super().__init__()
        inner = decoder(size, window).config.feedforward
        assert inner is not None
        self.books, self.outputs = size.codebooks, CARDINALITY + 1
        self.embeddings = nn.ModuleList(nn.Embedding(CARDINALITY + 3, size.width) for _ in range(size.codebooks))
        self.middle = importlib.import_module("x_transformers").Decoder(
            dim=size.width,
            depth=size.layers,
            heads=size.heads,
            attn_dim_head=size.width // size.heads,
            attn_flash=True,
            rotary_pos_emb=True,
            use_rmsnorm=True,
            ff_swish=True,
            ff_glu=True,
            ff_mult=inner / size.width,
        )
        self.head = nn.Linear(size.width, size.codebooks * self.outputs, bias=False)

    def forward(self, rows_BSK: Tensor) -> Tensor:
        x_BSD = sum(table(rows_BSK[..., k]) for k, table in enumerate(self.embeddings))
        return self.head(self.middle(x_BSD)).unflatten(-1, (self.books, self.outputs))


def x_transformers(size: Size, window: int, grid_BSK: Tensor) -> Made:
    def loss(module: nn.Module) -> Tensor:
        logits = module(grid_BSK[:, :-1]).float()
        return functional.cross_entropy(logits.flatten(0, 2), grid_BSK[:, 1:].flatten())

    return _Between(size, window), loss


if __name__ == "__main__":
    main(check)
