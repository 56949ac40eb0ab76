"""A diagnosis for the terminal, and as lines for other pages."""

from __future__ import annotations

import textwrap

from partimento.lab.doctor.doctor import Diagnosis
from partimento.lab.doctor.finding import Finding, diseases

WIDTH = 100


def text(found: Diagnosis) -> str:
    """All of it, ranked."""
    parts = [f"{_head(found)}\n{summary(found)}"]
    if found.standing:
        parts.append(_wrapped(found.standing))
    parts += [_diagnosis(number, one) for number, one in enumerate(found.diagnoses, 1)]
    if found.remarks:
        parts.append("Remarks (not likely to be wrong)\n" + "\n".join(_item(line_of(one)) for one in found.remarks))
    if found.fine:
        parts.append("Fine\n" + "\n".join(map(_item, found.fine)))
    if found.missing:
        parts.append("Could not be looked at\n" + "\n".join(map(_item, found.missing)))
    if found.other is not None:
        theirs = [_item(line_of(one)) for one in found.other.diagnoses]
        rows = [_head(found.other), summary(found.other), *theirs, _wrapped(against(found, found.other))]
        parts.append("\n".join(rows))
    return "\n\n".join(parts)


def summary(found: Diagnosis) -> str:
    """One sentence."""
    likely = found.diagnoses
    if not likely:
        count = len(found.remarks)
        remarks = f" ({count} remark{'s' * (count > 1)})" if count else ""
        little = "" if found.step else " It has made no step yet, so there is little to see."
        return f"Nothing is wrong that the doctor knows of{remarks}.{little}"
    named = "; ".join(f"{_name(one)} ({one.confidence:.0%})".replace("%", " %") for one in likely[:3])
    more = f"; and {len(likely) - 3} more" if len(likely) > 3 else ""
    return f"{named}{more}."


def lines(found: Diagnosis, most: int = 3) -> list[str]:
    """The summary, and a line for each of the first findings: for a report or a log."""
    return [summary(found), *(line_of(one) for one in found.findings[:most])]


def line_of(one: Finding) -> str:
    where = f", {one.where}" if one.where else ""
    return f"{_name(one)} ({one.confidence:.0%}{where}): {one.evidence[0].text}".replace("%", " %").replace("  %", " %")


def against(one: Diagnosis, other: Diagnosis) -> str:
    """Which likely diseases two patients share, and which only one has."""
    mine, theirs = ({found.disease for found in each.diagnoses} for each in (one, other))
    shares = {"in both": mine & theirs, "only in the first": mine - theirs, "only in the second": theirs - mine}
    named = {what: ", ".join(diseases()[name].name for name in sorted(names)) for what, names in shares.items()}
    said = [f"{what}: {names}" for what, names in named.items() if names]
    return f"Likely {'; '.join(said)}." if said else "Neither has a likely disease."


def _head(found: Diagnosis) -> str:
    facts = [found.family or "unknown family", f"step {found.step:,}" if found.step is not None else "no step"]
    facts += [] if found.ended else ["not ended"]
    return f"{found.name} ({', '.join(facts)})"


def _name(one: Finding) -> str:
    return diseases()[one.disease].name


def headed(number: int, one: Finding) -> str:
    """The heading of a diagnosis and its evidence."""
    where = f"  {one.where}" if one.where else ""
    head = f"{number}. {_name(one)}  {one.confidence:.0%}".replace("%", " %") + where
    return "\n".join([head, *(_item(evidence.text) for evidence in one.evidence)])


def _diagnosis(number: int, one: Finding) -> str:
    words = diseases()[one.disease]
    rows = [
        headed(number, one),
        _wrapped(f"What it is: {words.what}", "   "),
        _wrapped(f"If that is wrong: {words.looks_like_if_wrong}", "   "),
        _wrapped(f"Try first: {words.change}", "   "),
        f"   {words.page}",
    ]
    return "\n".join(rows)


def _item(line: str) -> str:
    return textwrap.fill(line, WIDTH, initial_indent="   - ", subsequent_indent="     ", break_long_words=False)


def _wrapped(line: str, indent: str = "") -> str:
    return textwrap.fill(line, WIDTH, initial_indent=indent, subsequent_indent=indent, break_long_words=False)
