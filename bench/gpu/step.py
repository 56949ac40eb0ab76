"""One training of the benchmark: the parts of the engine in the engine's order, on random codes, without files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from partimento.config import Guard as GuardConfig
from partimento.config import Loss, Optim, Train
from partimento.keyed import key
from partimento.models.decoder import CodeDecoder, DecoderConfig
from partimento.training import compiled, devices
from partimento.training.graphs import Graphed
from partimento.training.guards import Guard
from partimento.training.objective import CodesObjective
from partimento.training.optim import Optimizers, clip_global_, total_norm

CARDINALITY = 1024


@dataclass(frozen=True)
class Size:
    width: int
    layers: int
    heads: int
    codebooks: int = 9

    def __str__(self) -> str:
        return f"{self.width}/{self.layers}/{self.heads}"


REFERENCE = Size(768, 16, 12)
TINY = Size(32, 2, 2, 3)


def decoder(size: Size, window: int, dropout: float = 0.0) -> CodeDecoder:
    """The same weights at every call."""
    torch.manual_seed(0)
    return CodeDecoder(
        DecoderConfig(
            codebooks=size.codebooks,
            rows=CARDINALITY + 3,
            outputs=CARDINALITY + 1,
            width=size.width,
            layers=size.layers,
            heads=size.heads,
            max_positions=window,
            dropout=dropout,
        )
    )


def grid(size: Size, batch: int, window: int, number: int = 0) -> Tensor:
    """Random codes [batch, window + 1, K] on the host: `window` rows are fed."""
    generator = torch.Generator().manual_seed(key("grid", number))
    return torch.randint(0, CARDINALITY, (batch, window + 1, size.codebooks), generator=generator, dtype=torch.int16)


class Training:
    """`mode` is "eager", "compiled", "graphs" (eager kernels, recorded) or "compiled+graphs"."""

    def __init__(
        self,
        device: torch.device,
        size: Size,
        window: int,
        *,
        precision: str = "fp32",
        mode: str = "eager",
        dropout: float = 0.0,
        **optim: Any,
    ) -> None:
        self.device, self.precision = device, precision
        self.decoder = decoder(size, window, dropout).to(device).train()
        train = Train(compile="compiled" in mode, cuda_graphs="graphs" in mode)
        compiled.prepare(self.decoder, train, device)
        self.objective = CodesObjective(self.decoder, CARDINALITY, Loss()).train()
        self.optim = Optim(**{"lr": 1e-3, **optim})
        self.optimizer = Optimizers(self.decoder, self.optim)
        self.guard = Guard(GuardConfig(), device)
        self.parameters = list(self.decoder.parameters())
        self.graphed = Graphed(self._pass, self.parameters) if "graphs" in mode else None

    def _pass(self, inputs: tuple[Tensor | None, ...]) -> tuple[Tensor, dict[str, Tensor]]:
        with devices.autocast(self.device, self.precision):
            total, sums = self.objective(*inputs)
        total.backward()
        return total.detach(), sums

    def inputs(self, grid_BSK: Tensor) -> tuple[Tensor | None, ...]:
        batch = len(grid_BSK)
        keep_B = torch.ones(batch, dtype=torch.bool, device=self.device)
        return grid_BSK.to(self.device), torch.zeros(batch, 0, device=self.device), keep_B, None

    def step(self, number: int, *micros: tuple[Tensor | None, ...], spoil: float | None = None) -> Tensor:
        """The mean loss of one optimizer step, on the device. Nothing in here waits for the device."""
        self.optimizer.zero_grad(set_to_none=self.graphed is None)
        totals, counts = [], []
        for micro, inputs in enumerate(micros):
            devices.seed(self.device, key("dropout", number, micro))
            total, sums = (self.graphed or self._pass)(inputs)
            totals.append(total)
            counts.append(sums["tokens"])
        tokens = torch.stack(counts).sum()
        loss = torch.stack(totals).sum() / tokens
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        if spoil is not None:
            torch._foreach_mul_(gradients, spoil)
        norm = total_norm(gradients) / tokens
        bad = self.guard.judge(loss, norm)
        clip_global_(gradients, 1 / tokens, norm, self.optim.clip)
        self.optimizer.step(bad, 1.0)
        return loss

    def losses(self, steps: int, batches: list[tuple[tuple[Tensor | None, ...], ...]]) -> Tensor:
        """The loss of each of `steps` steps, going round the batches (each of one or more micro-batches)."""
        return torch.stack([self.step(number, *batches[number % len(batches)]) for number in range(steps)])

    def state(self) -> dict[str, Tensor]:
        """Copies of weights, moments and the guard's memory."""
        named = {f"weight {name}": value for name, value in self.decoder.state_dict().items()}
        named |= {f"moment {name}": value for name, value in self.optimizer.state().items()}
        named |= {f"guard {name}": value for name, value in self.guard.state().items()}
        return {name: value.detach().clone() for name, value in named.items()}

    def load(self, state: dict[str, Tensor]) -> None:
        def part(kind: str) -> dict[str, Tensor]:
            return {name[len(kind) + 1 :]: value for name, value in state.items() if name.startswith(f"{kind} ")}

        self.decoder.load_state_dict(part("weight"))
        self.optimizer.load(part("moment"))
        self.guard.load(part("guard"))
