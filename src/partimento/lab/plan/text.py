"""A plan as a page of plain text."""

from __future__ import annotations

from typing import Any

from partimento.lab.plan import Plan
from partimento.lab.plan.cost import MFU
from partimento.lab.plan.layouts import SECONDS
from partimento.runs import transplanted


def sections(plan: Plan) -> list[tuple[str, list[str], list[list[Any]]]]:
    """(title, head, rows) of every table, in the order in which they are read."""
    return [
        ("model", ["part", "parameters", *(["trained"] if plan.frozen else []), "share"], _model(plan)),
        *_experts(plan),
        ("data", ["", ""], _data(plan)),
        *([("stages", _stage_head(plan), _stages(plan))] if _staged(plan) else []),
        (
            "optimizers",
            ["group", "optimizer", "tensors", "parameters", "peak rate", "decay", "such as"],
            [
                [
                    row["group"],
                    row["optimizer"],
                    row["tensors"],
                    number(row["parameters"]),
                    row["rate"],
                    row["weight_decay"],
                    row["names"][0],
                ]
                for row in plan.optimizers
            ],
        ),
        ("memory of one device", ["", ""], _memory(plan)),
        (
            "options",
            ["setting", "memory", "time of a step", *(["largest batch"] if plan.room else [])],
            _options(plan),
        ),
        *([("patterns", _layout_head(plan), _layouts(plan))] if plan.layouts else []),
        ("time", ["device", "TFLOP/s", "hours", "fits"], _hours(plan)),
        ("disk", ["", ""], [["one checkpoint", size(plan.checkpoint_bytes)], ["the run", size(plan.disk_bytes)]]),
    ]


def _staged(plan: Plan) -> bool:
    return len(plan.stages) > 1


def _model(plan: Plan) -> list[list[Any]]:
    rows: list[list[Any]] = []
    for part, n in plan.parts.items():
        trained = [number(plan.trained[part])] if plan.frozen else []
        rows.append([part, number(n), *trained, f"{100 * n / plan.parameters:.0f} %"])
    told = f"{number(plan.trainable)} trainable"
    whole = [number(plan.trainable), f"{number(plan.frozen)} frozen"] if plan.frozen else [told]
    rows.append(["all", number(plan.parameters), *whole])
    second = sum(plan.adversary.values())
    for part, n in plan.adversary.items():
        trained = [number(n)] if plan.frozen else []
        rows.append([f"adversary: {part}", number(n), *trained, f"{100 * n / second:.0f} %"])
    whole = [number(second)] if plan.frozen else []
    return [*rows, ["adversary", number(second), *whole, "all trainable"]] if second else rows


def _experts(plan: Plan) -> list[tuple[str, list[str], list[list[Any]]]]:
    """What is taken from another model, sentences above the table."""
    if plan.experts is None:
        return []
    table = transplanted.table(plan.experts)
    return [("\n".join(["experts", table.summary, *table.prose]), [*transplanted.HEAD], [*map(list, table.rows)])]


def _data(plan: Plan) -> list[list[Any]]:
    data = plan.data
    rows = _sound(plan) if plan.audio else _codes(plan)
    if plan.epochs is not None:
        rows.append(["hears the data", f"{plan.epochs:.2f} times"])
    if data is not None and data.uncounted:
        rows.append(["not counted", f"{data.uncounted} files whose header does not tell their length"])
    return rows


def _codes(plan: Plan) -> list[list[Any]]:
    data, rows = plan.data, []
    if plan.codec is not None:
        rows.append(
            ["no pack", f"codes of {plan.codec}, without tags; {'hours as given' if data else 'no hours given'}"]
        )
    if data is not None:
        clips = "" if data.clips is None else f"{data.clips:,} clips, "
        told = f"{clips}{data.hours:,.2f} h, {data.frames:,} frames, {number(data.codes)} codes"
        rows += [["train split", told], ["different codes a parameter", f"{plan.codes_per_parameter:.3g}"]]
    return [
        *rows,
        ["the run draws", f"{plan.seen_items:,} windows, {number(plan.seen_codes)} codes"],
        ["codes seen a parameter", f"{plan.seen_per_parameter:.3g}"],
    ]


def _sound(plan: Plan) -> list[list[Any]]:
    """Length and number of the crops are one budget: the same seconds a step cost the same."""
    stage, data = plan.stages[0], plan.data
    assert data is not None and plan.epochs is not None  # stated are codes only
    items = stage.batch * stage.accumulate
    rows = [
        ["train split", f"{data.clips:,} recordings, {duration(data.hours)}"],
        ["the run draws", f"{plan.seen_items:,} crops, {duration(plan.epochs * data.hours)} of sound"],
        ["one step hears", f"{plan.audio[0]:.3g} s: {items} crops of {plan.audio[0] / items:.3g} s"],
    ]
    if stage.batch >= 4 * plan.devices:
        longer = f"optim.batch={stage.batch // 4} data.crop={4 * stage.window}"
        rows.append(["the same, with a longer context", longer])
    return rows


def _stage_head(plan: Plan) -> list[str]:
    head = ["from step", "crop" if plan.audio else "window", "batch", "accumulate", "rate"]
    return [*head, "audio a step"] if plan.audio else head


def _stages(plan: Plan) -> list[list[Any]]:
    rows = [[s.start, s.window, s.batch, s.accumulate, f"x {s.lr:g}"] for s in plan.stages]
    return [[*row, f"{seconds:.3g} s"] for row, seconds in zip(rows, plan.audio, strict=True)] if plan.audio else rows


def _memory(plan: Plan) -> list[list[Any]]:
    memory = plan.options[0].memory
    rows = [
        ["weights", size(memory.weights)],
        ["gradients", size(memory.gradients)],
        ["moments", size(memory.moments)],
        ["average (EMA)", size(memory.average)],
        ["weights in bf16", size(memory.copies)],
        ["adversary, with its gradients and moments", size(memory.adversary)],
        [f"activations, batch {-(-plan.batch // plan.devices)}", size(memory.activations)],
        ["all", size(memory.total)],
    ]
    return [row for row in rows if row[1] != size(0)]


def _options(plan: Plan) -> list[list[Any]]:
    rows: list[list[Any]] = []
    for option in plan.options:
        time = "by the links" if option.time is None else f"x {option.time:.2f}"
        row = [option.settings or "as it is", size(option.memory.total), time]
        rows.append([*row, option.largest_batch] if plan.room else row)
    return rows


def _layout_head(plan: Plan) -> list[str]:
    items = [f"{seconds:g} s: {what}" for seconds in SECONDS for what in ("positions", "memory", "TFLOP")]
    return ["pattern", "positions a second", "the window", *items, *(["fits"] if plan.room else [])]


def _layouts(plan: Plan) -> list[list[Any]]:
    rows: list[list[Any]] = []
    for one in plan.layouts:
        row = [one.pattern, f"{one.positions_per_second:.4g}", f"{one.window_seconds:.2f} s"]
        for positions, kept, flops in zip(one.positions, one.activations, one.flops, strict=True):
            told = ["too long", ""] if kept is None or flops is None else [size(kept), f"{flops / 1e12:.3g}"]
            row += [f"{positions:,}", *told]
        rows.append([*row, f"{one.fits:.1f} s"] if one.fits is not None else row)
    return rows


def _hours(plan: Plan) -> list[list[Any]]:
    rows: list[list[Any]] = []
    if plan.measured is not None:
        found = plan.measured
        rows.append([f"{found.device}, measured here", f"{found.teraflops:.3g}", duration(found.hours), ""])
    many = f"{plan.devices} x " if plan.devices > 1 else ""
    for row in plan.hours:
        name = f"{many}{row.device}" + (f" ({row.gigabytes:g} GB)" if row.gigabytes else "")
        fits = "" if row.fits is None else "yes" if row.fits else "no"
        rows.append([name, f"{row.teraflops:g} x {MFU:g}", duration(row.hours), fits])
    return rows


def number(value: float) -> str:
    """12.3 M, 4.56 G; whole below ten thousand."""
    if value < 10_000:
        return f"{value:,.0f}"
    unit, letter = next((u, x) for u, x in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")) if value >= u)
    return f"{value / unit:.3g} {letter}"


def size(value: float) -> str:
    """Bytes in MB or GB."""
    return f"{value / 1e9:.2f} GB" if value >= 1e9 else f"{value / 1e6:.1f} MB"


def duration(hours: float) -> str:
    """Hours as a person would say them."""
    if hours < 1 / 60:
        return f"{3600 * hours:.2g} s"
    if hours < 1:
        return f"{60 * hours:.2g} min"
    return f"{hours:.1f} h" if hours < 48 else f"{hours / 24:.1f} days"
