"""The card itself: README.md, for people. What is not known is said to be unknown."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import partimento
from partimento.lab.card.data import OBLIGATIONS, Data
from partimento.lab.card.front import front, yaml
from partimento.lab.card.known import Known
from partimento.lab.card.measured import Measured, Metric
from partimento.runs.exported import Listed

MOST_CREDITS, MOST_TAGS, LONGEST = 20, 12, 300
ATTRIBUTION = "ATTRIBUTION.tsv"
KIND = {
    "rvq": "A language model of audio codes: it plays music.",
    "dia": "A model that plays music from words: a text encoder, and a decoder of audio codes.",
    "mot": "A language model with experts for audio beside it: it plays music from words.",
    "restore": "A restorer: it takes a recording and gives a cleaner one.",
    "codec": "A neural audio codec: sound becomes codes, and codes sound again.",
}
SETTINGS = {
    "data": ("window", "crop", "null_share", "tag_dropout", "task", "semitones"),
    "model": ("pattern", "layers", "width", "heads", "net", "experts", "dropout", "lora_rank"),
    "optim": ("name", "batch", "accumulate", "lr", "schedule", "warmup", "weight_decay", "clip", "ema"),
    "train": ("steps", "precision", "seed"),
}


def readme(known: Known, files: Listed) -> str:
    """README.md over a directory that holds `files`."""
    parts = [
        yaml(front(known)) + f"\n# {escaped(known.name)}",
        f"{KIND.get(known.family, 'A model of music.')} {escaped(known.what)}.",
        _table(("", ""), _facts(known)),
        "## Load and play",
        _usage(known),
        "## What it was trained on",
        *_data(known.data),
        "### Licences, and what they ask of who publishes this",
        *_licences(known),
        "## How it measures",
        *_measures(known),
        "## How it was trained",
        *_training(known),
        "## What the doctor says",
        *_doctor(known),
        "## Limits",
        "\n".join(f"- {line}" for line in _limits(known)),
        "## Files",
        _files(files),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _facts(known: Known) -> list[tuple[str, str]]:
    source = known.source
    weights = "averaged (EMA)" if source["weights"] == "ema" else "raw"
    return [
        ("family", known.family),
        ("parameters in these files", f"{known.parameters:,}"),
        *known.sound,
        ("from the run", f"{source['run']}, {source['checkpoint']}, {weights} weights"),
        ("licence of the weights", known.licence or "none was given by who exported them"),
    ]


def _usage(known: Known) -> str:
    use = known.usage
    place = "with this directory at hand under that name"
    if known.layout == "partimento":
        place += ", or its name on the hub, OWNER/NAME, once `hf download` has fetched it"
        text = f"`pip install partimento`; {place}:\n\n```python\n{use.python}\n```"
    else:
        text = f"{place[0].upper()}{place[1:]}:\n\n```python\n{use.python}\n```"
    if use.shell is not None:
        text += f"\n\nThe same on the command line:\n\n```bash\n{use.shell}\n```"
    return text + "".join(f"\n\n{escaped(line)}" for line in use.apart)


def _data(data: Data) -> list[str]:
    rows = [("name", data.name), ("fingerprint", data.fingerprint or "unknown")]
    if data.splits is None:
        rows.append(("amount", f"unknown: {data.unknown}"))
    else:
        names = {"train": "trained on", "valid": "held out (whole sources)"}
        rows += [(names.get(name, name), amount.text) for name, amount in data.splits.items()]
    if data.chosen:
        rows.append(("clips chosen by", data.chosen))
    if data.tags:
        most = ", ".join(f"{tag} ({count:,})" for tag, count in data.tags[:MOST_TAGS])
        more = f" and {len(data.tags) - MOST_TAGS} more" if len(data.tags) > MOST_TAGS else ""
        rows.append(("tags of the clips trained on", most + more))
    return [_table(("data", ""), rows)]


def _licences(known: Known) -> list[str]:
    data = known.data
    parts = []
    if data.licences is None:
        parts.append(f"**Unknown**: {escaped(data.unknown or 'nothing was kept of them')}. Nothing is guessed here.")
        if data.credited:
            parts.append("The configuration of the training names:\n\n" + _list(data.credited))
    elif not data.licences:
        parts.append("No clip was trained on.")
    else:
        rows = [(*_licence(row.licence, row.name), f"{row.clips:,}", f"{row.hours:.3g}") for row in data.licences]
        parts.append(_table(("as the data says", "which is", "clips", "hours"), rows))
        parts += _asked(data)
    parts += [escaped(line) for line in known.began]
    if known.licence is None:
        parts.append(
            "No licence of the weights was given (`--licence` of `partimento weights export`), so the head of this "
            "card says unknown: nobody has said that they may be used."
        )
    return parts


def _licence(text: str | None, name: str | None) -> tuple[str, str]:
    if text is None:
        return "no licence given", "unknown: nobody has said what may be done with it"
    return text, name or "not understood: read it yourself"


def _asked(data: Data) -> list[str]:
    """What the licences of the clips ask for, what is known of nobody, and who is to be named."""
    lines = [
        f"{OBLIGATIONS[name][0].upper()}{OBLIGATIONS[name][1:]} (asked for {hours:.3g} hours of it)."
        for name, hours in data.asked.items()
    ]
    without = sum(row.clips for row in data.licences or () if row.licence is None)
    strange = sum(row.clips for row in data.licences or () if row.licence is not None and row.name is None)
    if without:
        lines.append(f"{without:,} clips have no licence: whether they may be used at all is not known.")
    if strange:
        lines.append(f"The licence of {strange:,} clips was not understood, and nothing is guessed.")
    parts = []
    if not lines:
        parts.append("None of them asks anything of who publishes.")
    else:
        parts.append("What they ask for:\n\n" + _list(lines))
        parts.append("Whether that reaches the weights of a model is for who publishes them to judge.")
    if "share_alike" in data.asked:
        parts.append(
            "**Share-alike**: some of the data asks that what is made from it goes under the same licence. Look at "
            "that before you give these weights another one."
        )
    if data.credits and len(data.credits) <= MOST_CREDITS:
        rows = [(one.source, one.origin or "unknown", one.licence, f"{one.clips:,}") for one in data.credits]
        parts.append("To be named:\n\n" + _table(("source", "origin", "licence", "clips"), rows))
    elif data.credits:
        parts.append(f"{len(data.credits):,} sources are to be named: [{ATTRIBUTION}]({ATTRIBUTION}) lists them.")
    return parts


def _measures(known: Known) -> list[str]:
    found = known.measured
    parts = []
    if found.metrics:
        items = f"{found.items:,} held-out items" if found.items is not None else "held-out items"
        told = f"At step {known.step:,}, on {items}."
        if any(one.mean is not None for one in found.metrics):
            told += (
                " The interval is that of the mean over sources, by a bootstrap (of fewer than six sources Student's); "
                "each source counts once, so its middle is not quite the figure over all items."
            )
        parts.append(told)
        head = ("held out", "over all items", "mean over sources", "95 % interval", "sources")
        parts.append(_table(head, [_metric(one) for one in found.metrics]))
    parts += [escaped(line) for line in found.missing]
    if found.baselines:
        parts.append("Beside it, on the same held-out data:\n\n" + _baselines(found))
    if known.codec_figures is not None:
        rows = [(name, _number(value)) for name, value in known.codec_figures.items() if isinstance(value, int | float)]
        parts.append("Every held-out recording through the codec and back:\n\n" + _table(("figure", "value"), rows))
    elif known.family == "codec":
        parts.append("Every held-out recording through the codec: unknown, since the recordings could not be read.")
    if known.diagnosis is not None and known.diagnosis.standing:
        parts.append(escaped(known.diagnosis.standing))
    return parts


def _metric(one: Metric) -> tuple[str, ...]:
    unit = f" {one.unit}" if one.unit else ""
    mean = one.mean
    interval = "unknown"
    if mean is not None and mean.low is not None and mean.high is not None:
        interval = f"{_number(mean.low)} to {_number(mean.high)}"
    elif mean is not None:
        interval = "none: one source says nothing of the spread"
    return (
        f"{one.name} ({one.better} is better)",
        f"{_number(one.value)}{unit}",
        "unknown" if mean is None else f"{_number(mean.mean)}{unit}",
        interval,
        "unknown" if mean is None else f"{mean.n:,}",
    )


def _baselines(found: Measured) -> str:
    own = [("**this model**", f"**{_number(found.metrics[0].value)}**")] if found.metrics else []
    named = found.metrics[0].name if found.metrics else "figure"
    return _table(("", named), [*own, *((escaped(name), _number(value)) for name, value in found.baselines)], raw=True)


def _training(known: Known) -> list[str]:
    rows = []
    for section, names in SETTINGS.items():
        part = known.config.get(section, {})
        rows += [
            (f"{section}.{name}", _told(part[name])) for name in names if part.get(name) not in (None, [], "", 0, False)
        ]
    rows.append(("step of these weights", f"{known.step:,}"))
    told = known.versions.get("environment")
    environment = told if isinstance(told, Mapping) else {}
    for name, value in (
        ("begun", known.versions.get("created")),
        ("device", environment.get("name")),
        ("partimento", known.versions.get("partimento")),
        ("torch", environment.get("torch")),
        ("code", known.versions.get("commit")),
    ):
        rows.append((name, "unknown" if value is None else str(value)))
    return [_table(("setting", ""), rows), "All of it is in [training.json](training.json)."]


def _doctor(known: Known) -> list[str]:
    lines = [*known.doctor_lines, *known.missing] or ["The doctor did not look at the run."]
    where = "" if known.diagnosis is None else f"`partimento doctor` of {partimento.__version__} on the run:\n\n"
    return [where + _list(lines)]


def _limits(known: Known) -> list[str]:
    amount = known.data.splits and known.data.splits.get("train")
    heard = f"It learned from {amount.text}" if amount else "How much it learned from is not known"
    lines = [f"{heard}: what is not in there it does not know."]
    if known.is_codes:
        lines.append("What it plays can be no better than its codec, whose reconstruction is the ceiling.")
        lines.append(
            "Whether it plays back passages of its training data was not examined for this card: "
            "`partimento memorised RUN` does."
        )
        if not known.conditioned:
            lines.append("It takes neither tags nor text.")
    else:
        lines.append(f"It works at {dict(known.sound)['sample rate']}; other recordings are resampled for it.")
    if not known.measured.metrics:
        lines.append("It was not measured on held-out data at this step, so nothing says how good it is.")
    lines.append("One training with one seed: another seed gives other weights, and somewhat other figures.")
    return lines


def _files(files: Listed) -> str:
    rows = [(f"`{name}`", _size(one["bytes"]), f"`{one['sha256'][:16]}`") for name, one in sorted(files.items())]
    table = _table(("file", "size", "sha256 begins with"), rows, raw=True)
    return (
        f"{table}\n\n`partimento.json` has the whole hashes; a file that is loaded is verified against them, and "
        "refused where it was changed. This card, the report and the lists are for people: they may be edited."
    )


def escaped(text: str) -> str:
    """Foreign text as Markdown that shows it as it is, on one line."""
    plain = " ".join(str(text).split())
    plain = plain if len(plain) <= LONGEST * 4 else plain[: LONGEST * 4] + " ..."
    plain = re.sub(r"([\\`*_\[\]|~#!$])", r"\\\1", plain)
    plain = re.sub(r"^([-+=])(?=\s|[-=]|$)|^(\d+)([.)])(?=\s|$)", r"\2\\\1\3", plain)  # a list, or a heading
    return plain.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], raw: bool = False) -> str:
    def line(cells: Sequence[str]) -> str:
        shown = [cell if raw else escaped(cell if len(cell) <= LONGEST else cell[:LONGEST] + " ...") for cell in cells]
        return f"| {' | '.join(shown)} |"

    return "\n".join([line(head), f"|{'---|' * len(head)}", *map(line, rows)])


def _list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {escaped(line)}" for line in lines)


def _told(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_told(inner)}" for key, inner in value.items())
    if isinstance(value, list):
        return ", ".join(map(_told, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _number(value: float) -> str:
    return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.4g}"


def _size(size: int) -> str:
    return f"{size / 1e6:,.1f} MB" if size >= 1e5 else f"{size / 1e3:,.1f} kB"
