"""What every option of a training would change: memory on a device, time of a step, the batch that fits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from partimento.config import Config, DiaConfig, MotConfig, RvqConfig
from partimento.lab.plan import cost
from partimento.lab.plan.memory import Memory, largest_batch, on_device
from partimento.lab.plan.sketch import Sketch, sketch
from partimento.lab.plan.trace import Kept, trace
from partimento.training import compiled
from partimento.training.groups import claim

SELECTIVE_TIME = 1.05  # norms, activations and rotations are computed again: they are limited by memory, not arithmetic
FULL_TIME = 4 / 3  # a second forward pass beside one forward and one backward pass of twice its cost
RANK = 16
BF16_TIME = 0.5  # of TF32 on a GPU's matrix units; of float32 on a CPU that has instructions for it


@dataclass(frozen=True)
class Option:
    """`settings` are the overrides that make it ("" for the configuration itself). `time` is that of a step relative to
    the configuration, from the arithmetic alone; None where it depends on the machine (what links the devices)."""

    settings: str
    devices: int
    memory: Memory
    time: float | None
    largest_batch: int | None

    def to_json(self) -> dict[str, Any]:
        return {
            "settings": self.settings,
            "devices": self.devices,
            "memory": self.memory.to_json(),
            "time": self.time,
            "largest_batch": self.largest_batch,
        }


class Options:
    """Traces are shared by the options that need the same one."""

    def __init__(self, drawn: Sketch, devices: int, room: float | None) -> None:
        self.drawn, self.devices, self.room = drawn, devices, room
        # The stage with the most rows in a micro-batch is the one that must fit.
        self.stage = max(drawn.stages, key=lambda stage: stage.batch * stage.window)
        self._traced: dict[str, Kept] = {}

    def kept(self, precision: str) -> Kept:
        kind = "bf16" if precision == "bf16" else "fp32"  # TF32 keeps what float32 keeps
        if kind not in self._traced and self.drawn.sounding is not None:
            self._traced[kind] = self.drawn.sounding.kept(self.stage, kind)
        if kind not in self._traced:
            inputs = self.drawn.inputs(self.stage)
            self._traced[kind] = trace(self.drawn.objective, inputs, self.stage.batch, kind)
        return self._traced[kind]

    def all(self) -> list[Option]:
        """The configuration as it is, then every option that it does not have already."""
        config = self.drawn.config
        found = [self.option("", 1.0)]
        plan, optim = config.train, config.optim
        if plan.precision != "bf16" and isinstance(config, MotConfig):
            found.append(self._narrowed(config))
        elif plan.precision != "bf16":
            found.append(self._with("train.precision=bf16", "train", {"precision": "bf16"}, BF16_TIME))
        # Where there is an adversary, nearly all that is kept is its own, which is not computed again.
        blocks = [] if self.drawn.rivals(config) else compiled.blocks(self.drawn.objective)
        if plan.recompute == "none" and blocks:
            found.append(self._with("train.recompute=selective", "train", {"recompute": "selective"}, SELECTIVE_TIME))
        if plan.recompute != "full" and blocks:
            now = SELECTIVE_TIME if plan.recompute == "selective" else 1.0
            found.append(self._with("train.recompute=full", "train", {"recompute": "full"}, FULL_TIME / now))
        if self.devices > 1 and plan.parallel == "ddp" and isinstance(config, RvqConfig | DiaConfig):
            found.append(self._with("train.parallel=fsdp", "train", {"parallel": "fsdp"}, None))
        if optim.ema > 0:
            found.append(self._with("optim.ema=0", "optim", {"ema": 0.0}, 1.0))
        if optim.name == "adamw":
            found.append(self._with("optim.name=muon", "optim", {"name": "muon"}, self._muon_time()))
        if isinstance(config, DiaConfig) and config.model.weights and not config.model.lora_rank:
            found.append(self._with_adapters(config))
        return found

    def _narrowed(self, config: MotConfig) -> Option:
        """Another model, with its own trace: what is frozen is bfloat16 too."""
        narrow = config.model_copy(update={"train": config.train.model_copy(update={"precision": "bf16"})})
        drawn = sketch(narrow, self.drawn.stated)
        return Options(drawn, self.devices, self.room).option("train.precision=bf16", BF16_TIME)

    def _with_adapters(self, config: DiaConfig) -> Option:
        """Another model, with its own trace. The adapters' rates are others too, which no plan can know."""
        model = config.model.model_copy(update={"lora_rank": RANK, "freeze": []})
        drawn = sketch(config.model_copy(update={"model": model}), self.drawn.stated)
        now, then = (sum(cost.item_flops(one)) for one in (self.drawn, drawn))
        return Options(drawn, self.devices, self.room).option(f"model.lora_rank={RANK}", then / now)

    def _with(self, settings: str, section: str, values: dict[str, Any], time: float | None) -> Option:
        config = self.drawn.config
        changed = getattr(config, section).model_copy(update=values)
        return self._option(settings, config.model_copy(update={section: changed}), self.devices, time)

    def option(self, settings: str, time: float | None) -> Option:
        """The configuration as it is, under this name."""
        return self._option(settings, self.drawn.config, self.devices, time)

    def _option(self, settings: str, config: Config, devices: int, time: float | None) -> Option:
        kept, module = self.kept(config.train.precision), self.drawn.module
        claims, rivals = claim(module, config.optim), self.drawn.rivals(config)
        memory = on_device(module, claims, config, kept, self.stage.batch, devices, rivals)
        largest = None
        if self.room is not None:
            largest = largest_batch(memory, kept, config.train.recompute, self.room, devices)
        return Option(settings, devices, memory, time, largest)

    def _muon_time(self) -> float:
        """The Newton-Schulz rounds against the model's own operations in a step."""
        config, module = self.drawn.config, self.drawn.module
        muon = config.model_copy(update={"optim": config.optim.model_copy(update={"name": "muon"})})
        claims = [*claim(module, muon.optim), *self.drawn.rivals(muon)]
        number = self.drawn.stages.index(self.stage)
        step = cost.item_flops(self.drawn)[number] * self.stage.batch * self.stage.accumulate / self.devices
        return 1 + cost.optimizer_flops(claims) / step
