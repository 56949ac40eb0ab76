"""What a listener might write under a loop of the band: its labels as English, put in one of many ways.

A caption says everything that the labels say and nothing else, so that what follows it can be judged by the labels. The
same labels with another key are the same facts in other words.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from partimento.keyed import numpy_rng

if TYPE_CHECKING:
    from partimento.audio.synth import Labels

_OPENINGS = (
    "{A} {style} loop in {key} at {tempo}, played by {players}.",
    "{Style} in {key}: {players}, at {tempo}.",
    "{Players} play {a} {style} in {key}. The tempo is {tempo}.",
    "This is {a} {style} piece for {players}. It is in {key}, at {tempo}.",
    "{Pace} {style} music with {players}, {tempo}, in {key}.",
    "The key is {key} and the tempo {tempo}: {a} {style} groove with {players}.",
    "At {tempo}, {players} are heard in {a} {style} tune. It is in {key}.",
    "{A} {pace} {style} recording. {Players} keep to {key}, at {tempo}.",
)
_TEMPI = ("{n} bpm", "{n} beats per minute", "a tempo of {n} bpm")
_PACES = ((90, ("slow", "calm")), (126, ("steady", "moderate")), (1000, ("fast", "quick")))


def caption(labels: Labels, *key: int | str) -> str:
    """One sentence or two about a loop; equal keys and labels give equal words."""
    rng = numpy_rng("caption", *key)

    def one_of(choices: tuple[str, ...]) -> str:
        return choices[int(rng.integers(len(choices)))]

    form = one_of(_OPENINGS)
    tempo = one_of(_TEMPI if "tempo {tempo}" not in form and "tempo is" not in form else _TEMPI[:2])
    pace = one_of(next(words for limit, words in _PACES if labels.tempo < limit))
    players = [labels.instruments[number] for number in rng.permutation(len(labels.instruments))]
    listed = " and ".join(part for part in (", ".join(players[:-1]), players[-1]) if part)
    described = pace if "{A} {pace}" in form else labels.style
    article = "an" if described[0] in "aeiou" else "a"
    told = form.format(
        style=labels.style,
        Style=_capital(labels.style),
        key=labels.key,
        tempo=tempo.format(n=labels.tempo),
        players=listed,
        Players=_capital(listed),
        pace=pace,
        Pace=_capital(pace),
        a=article,
        A=article.capitalize(),
    )
    return _capital(told)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
