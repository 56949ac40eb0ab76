"""`partimento plan`: what a training will need and take, without training and without the device that it is for."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from partimento.config import CodesConfig, Config, MotConfig
from partimento.lab.plan import cost
from partimento.lab.plan.advice import advice
from partimento.lab.plan.cost import Hours
from partimento.lab.plan.layouts import Layout, layouts
from partimento.lab.plan.measure import Measured, measure_steps
from partimento.lab.plan.memory import Memory, checkpoint_bytes, disk_bytes
from partimento.lab.plan.options import Option, Options
from partimento.lab.plan.parts import parts
from partimento.lab.plan.sketch import Data, Sketch, sample_rate, sketch
from partimento.lab.plan.stated import Stated, codes_of
from partimento.progress import Progress, Quiet
from partimento.tokens.findings import Finding
from partimento.training import groups
from partimento.training.compiled import blocks
from partimento.training.stages import Settings
from partimento.waveform.discriminators import Discriminators

__all__ = ["Plan", "plan"]


@dataclass(frozen=True)
class Plan:
    """The figures of a run before it begins. Bytes, FLOPs and hours are estimates, everything else is counted.

    `parts` maps the parts of the model to their parameters; `optimizers` says who trains what; `options[0]` is the
    configuration itself; `epochs` is how often the run hears its data; `seen_codes` are the codes that it is trained
    on, repeats counted. `adversary` maps the second player's members to their parameters, and `audio` are the seconds
    of sound that one step of each stage hears ([] for codes). `trained` are the trained ones of each of `parts`,
    `layouts` the patterns of a mixture side by side ([] for other families), and `experts` what it takes from another
    model (`runs.transplanted`; None for the others). Without a pack `codec` names that of the codes; then `data`, and
    with it `epochs` and `codes_per_parameter`, are None where no hours were stated.
    """

    config: Config = field(repr=False)
    devices: int
    room: float | None
    parts: dict[str, int]
    trained: dict[str, int]
    trainable: int
    frozen: int
    blocks: int
    data: Data | None
    seen_items: int
    seen_codes: float
    epochs: float | None
    stages: list[Settings]
    optimizers: list[dict[str, Any]]
    options: list[Option]
    batch: int
    micro_flops: float
    flops: float
    hours: list[Hours]
    checkpoint_bytes: int
    disk_bytes: int
    measured: Measured | None
    adversary: dict[str, int]
    audio: list[float]
    layouts: list[Layout]
    experts: dict[str, Any] | None = None
    codec: str | None = None
    advice: list[Finding] = field(default_factory=list)

    @property
    def parameters(self) -> int:
        return self.trainable + self.frozen

    @property
    def codes_per_parameter(self) -> float | None:
        """Different codes to learn from, for each trainable parameter."""
        return None if self.data is None else self.data.codes / max(1, self.trainable)

    @property
    def seen_per_parameter(self) -> float:
        return self.seen_codes / max(1, self.trainable)

    def to_json(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in self.__dataclass_fields__ if name not in ("config", "options")}
        plain = {name: [asdict(row) for row in own.pop(name)] for name in ("stages", "hours", "layouts", "advice")}
        return {
            **own,
            **plain,
            "data": asdict(self.data) if self.data else None,
            "measured": asdict(self.measured) if self.measured else None,
            "options": [option.to_json() for option in self.options],
            "parameters": self.parameters,
            "codes_per_parameter": self.codes_per_parameter,
            "seen_per_parameter": self.seen_per_parameter,
        }


def plan(
    config: Config,
    *,
    devices: int = 1,
    memory: float | None = None,
    flops: float | None = None,
    measure: bool = False,
    codec: str | None = None,
    hours: float | None = None,
    progress: Progress | None = None,
) -> Plan:
    """Plan the training of `config` on `devices` devices alike, with `memory` GB each, that make `flops` TFLOP/s each
    in its precision. With `measure` a few real steps are made on this machine (which needs the device of the
    configuration), and the hours that they speak for are told.

    With `codec` no pack is opened: codes are of the shape that this codec makes (`stated.codes_of`), and there are
    `hours` of music, where these are given.

    Raises what opening the data raises, CODEC001 (no such codec), what making the model raises (MODEL001, WEIGHTS020,
    ...), TRAIN010 to TRAIN013 (groups), and ValueError for a number that is not above 0, a codec for a model of sound
    or for measuring, or hours without a codec.
    """
    if devices < 1 or (memory is not None and memory <= 0) or (flops is not None and flops <= 0):
        raise ValueError("devices, memory and flops are numbers above 0")
    if codec is None and hours is not None:
        raise ValueError("hours are counted in the pack, where no codec is given")
    if codec is not None and (measure or not isinstance(config, CodesConfig) or (hours is not None and hours <= 0)):
        raise ValueError("a codec in place of the pack is for models of codes, cannot be measured, and has hours > 0")
    progress = progress or Quiet()
    progress.stage("plan", "the data is opened, the model is drawn without its weights")
    stated = None if codec is None else Stated(codes_of(codec), hours)
    drawn = sketch(config, stated)
    claims, rivals = groups.claim(drawn.module, config.optim), drawn.rivals(config)
    room = None if memory is None else 1e9 * memory
    options = Options(drawn, devices, room)
    found = options.all()
    operations = cost.run_flops(drawn, claims, rivals)
    rate = None if flops is None else 1e12 * flops
    number = drawn.stages.index(options.stage)
    seen = _seen_frames(drawn)
    made = Plan(
        config=config,
        devices=devices,
        room=room,
        parts=parts(drawn.module),
        trained=parts(drawn.module, trained=True),
        trainable=sum(one.parameter.numel() for one in claims),
        frozen=sum(p.numel() for p in drawn.module.parameters() if not p.requires_grad),
        blocks=len(blocks(drawn.objective)),
        data=drawn.data,
        seen_items=sum(cost.stage_items(drawn)),
        seen_codes=seen * _books(drawn),
        epochs=None if drawn.data is None else seen / max(1, drawn.data.frames),
        stages=drawn.stages,
        optimizers=_trainers(claims, rivals),
        options=found,
        batch=options.stage.batch,
        micro_flops=cost.item_flops(drawn)[number] * options.stage.batch,
        flops=operations,
        hours=cost.hours(operations, config, devices, found[0].memory.total, rate),
        checkpoint_bytes=(size := checkpoint_bytes(drawn.module, claims, config, rivals)),
        disk_bytes=disk_bytes(size, config),
        measured=measure_steps(drawn, progress) if measure else None,
        adversary=_members(drawn),
        audio=[] if isinstance(config, CodesConfig) else [_audio(stage, sample_rate(config)) for stage in drawn.stages],
        layouts=_layouts(drawn, found[0].memory, room),
        experts=drawn.experts,
        codec=codec,
    )
    made.advice.extend(advice(made))
    return made


def _seen_frames(drawn: Sketch) -> float:
    """Frames that all windows of the run cover."""
    items = cost.stage_items(drawn)
    return sum(number * stage.window / drawn.rows for stage, number in zip(drawn.stages, items, strict=True))


def _books(drawn: Sketch) -> int:
    if drawn.spec is not None:
        return drawn.spec.codebooks
    return 0 if drawn.data is None else drawn.data.codebooks


def _trainers(claims: list[groups.Claim], rivals: list[groups.Claim]) -> list[dict[str, Any]]:
    """Who trains what, of both players."""
    second = [{**row, "group": f"adversary: {row['group']}"} for row in groups.table(rivals)]
    return groups.table(claims) + second


def _audio(stage: Settings, rate: int) -> float:
    """Seconds of sound in one optimizer step."""
    return stage.batch * stage.accumulate * stage.window / rate


def _members(drawn: Sketch) -> dict[str, int]:
    rival = drawn.sounding.rival if drawn.sounding is not None else None
    if rival is None or not isinstance(rival.module, Discriminators):
        return {}
    members = zip(rival.module.names, rival.module.members.values(), strict=True)
    return {name: sum(weight.numel() for weight in member.parameters()) for name, member in members}


def _layouts(drawn: Sketch, memory: Memory, room: float | None) -> list[Layout]:
    if not isinstance(drawn.config, MotConfig) or drawn.spec is None:
        return []
    return layouts(drawn.config, drawn.spec, memory, room)
