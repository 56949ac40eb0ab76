"""The head of a card: what a model hub reads (YAML), https://huggingface.co/docs/hub/model-cards.

It is written as JSON values in YAML's block form, which any reader of YAML 1.2 takes as they are meant.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from partimento.lab.card.known import Known
from partimento.lab.card.measured import Metric

TASK = {"rvq": "text-to-audio", "dia": "text-to-audio", "mot": "text-to-audio", "restore": "audio-to-audio"}
TASK |= {"codec": "feature-extraction"}  # as EnCodec and Mimi are listed
UNCONDITIONAL = "audio-generation"  # the hub has no name for it
TAGS = {
    "rvq": ("music-generation", "decoder-only"),
    "dia": ("music-generation", "encoder-decoder"),
    "mot": ("music-generation", "mixture-of-transformers", "llama"),
    "restore": ("audio-restoration",),
    "codec": ("audio-codec", "neural-codec"),
}
LICENCES = {
    *(
        "apache-2.0",
        "mit",
        "bsd",
        "bsd-2-clause",
        "bsd-3-clause",
        "openrail",
        "openrail++",
        "unlicense",
        "wtfpl",
        "zlib",
    ),
    *("gpl", "gpl-2.0", "gpl-3.0", "lgpl", "lgpl-2.1", "lgpl-3.0", "agpl-3.0", "mpl-2.0", "epl-2.0", "eupl-1.2", "isc"),
    *(
        "cc",
        "cc0-1.0",
        "cc-by-2.0",
        "cc-by-2.5",
        "cc-by-3.0",
        "cc-by-4.0",
        "cc-by-sa-3.0",
        "cc-by-sa-4.0",
        "cc-by-nc-2.0",
    ),
    *("cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0"),
    *(
        "cc-by-nc-sa-3.0",
        "cc-by-nc-sa-4.0",
        "artistic-2.0",
        "llama2",
        "llama3",
        "llama3.1",
        "llama3.2",
        "gemma",
        "pddl",
    ),
}
"""Names of licences that the hub knows; others are `other` with a name."""


def licence_fields(text: str | None) -> dict[str, str]:
    """What was said by whoever publishes, never a guess."""
    if text is None:
        return {"license": "unknown"}
    name = re.sub(r"[\s_]+", "-", text.strip().lower())
    if name in LICENCES:
        return {"license": name}
    return {"license": "other", "license_name": re.sub(r"[^\w.+]+", "-", name).strip("-")}


def front(known: Known) -> dict[str, Any]:
    """The fields in their order; what is not known is not there."""
    pipeline = TASK.get(known.family) if known.conditioned else None
    found: dict[str, Any] = {
        **licence_fields(known.licence),
        "library_name": "transformers" if known.layout == "transformers" else "partimento",
    }
    if pipeline is not None:
        found["pipeline_tag"] = pipeline
    if known.backbone_name is not None:
        found |= {"base_model": known.backbone_name}
    found["tags"] = ["partimento", "music", "audio", *TAGS.get(known.family, ())]
    if not known.conditioned:
        found["tags"].append("unconditional")
    if known.measured.metrics:
        found["model-index"] = [{"name": known.name, "results": [_result(known, pipeline or UNCONDITIONAL)]}]
    return found


def _result(known: Known, task: str) -> dict[str, Any]:
    dataset = {"type": "partimento-pack" if known.data.splits or known.is_codes else "recordings"}
    dataset |= {"name": f"{known.data.name}, held-out part", "split": "valid"}
    return {
        "task": {"type": task},
        "dataset": dataset,
        "metrics": [one for metric in known.measured.metrics for one in _metrics(metric)],
    }


def _metrics(metric: Metric) -> list[dict[str, Any]]:
    told = [{"type": metric.type, "value": round(metric.value, 4), "name": f"{metric.name}, {metric.better} is better"}]
    if metric.mean is not None:
        name = f"{metric.name}, mean over {metric.mean.n} sources"
        if metric.mean.low is not None and metric.mean.high is not None:
            name += f", 95 % interval {metric.mean.low:.4g} to {metric.mean.high:.4g}"
        told.append({"type": f"{metric.type}_by_source", "value": round(metric.mean.mean, 4), "name": name})
    return told


def yaml(tree: Mapping[str, Any]) -> str:
    """Plain data as YAML, between its lines of dashes."""
    return "\n".join(["---", *_block(tree, ""), "---", ""])


def _block(value: Any, indent: str) -> list[str]:
    if isinstance(value, Mapping):
        lines = []
        for key, inner in value.items():
            if isinstance(inner, Mapping | list) and inner:
                deeper = indent + ("  " if isinstance(inner, Mapping) else "")
                lines += [f"{indent}{_scalar(key)}:", *_block(inner, deeper)]
            else:
                lines.append(f"{indent}{_scalar(key)}: {_scalar(inner)}")
        return lines
    lines = []
    for inner in value:
        if isinstance(inner, Mapping | list) and inner:
            block = _block(inner, indent + "  ")
            lines += [f"{indent}- {block[0].lstrip()}", *block[1:]]
        else:
            lines.append(f"{indent}- {_scalar(inner)}")
    return lines


def _scalar(value: Any) -> str:
    """Bare where no reader of YAML could take it for something else."""
    if isinstance(value, str):
        bare = re.fullmatch(r"[a-z][a-z0-9]*([-._/+][A-Za-z0-9]+)*", value) and value not in _RESERVED
        return value if bare else f'"{"".join(map(_quoted, value))}"'
    text = json.dumps(value, allow_nan=False)
    if isinstance(value, float) and "e" in text:  # YAML 1.1 asks for a point and a sign
        mantissa, _, exponent = text.partition("e")
        return f"{mantissa}{'' if '.' in mantissa else '.0'}e{int(exponent):+d}"
    return text


def _quoted(letter: str) -> str:
    if letter in '"\\':
        return f"\\{letter}"
    return letter if letter.isprintable() and ord(letter) < 0x10000 else f"\\U{ord(letter):08x}"


_RESERVED = {"true", "false", "null", "yes", "no", "on", "off", "y", "n"}
