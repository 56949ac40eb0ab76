"""Which logarithm is the right one to hold a loss of codes against: of the codes that are legal, not of all ids."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from partimento.lab.explainloss.record import Record
from partimento.tokens.vocabulary import AudioVocabulary


def outputs_of(record: Record) -> int | None:
    """Outputs of a head, EOS among them, as the checkpoint describes the model."""
    found = _find(record.description, "outputs")
    return found if isinstance(found, int) else None


def text_ids(record: Record) -> int | None:
    """Ids of text that a language model has beside those of its audio, as the checkpoint describes it."""
    if record.run.record["family"] != "mot":
        return None
    llama = _find(record.description, "llama")
    found = llama.get("vocabulary") if isinstance(llama, Mapping) else None
    return found if isinstance(found, int) else None


def yardstick(record: Record, ends: bool) -> list[str]:
    """What a guess costs, and why. `ends`: the softmax has an output for the end of a clip too."""
    if not record.cardinalities:
        return ["What a guess costs is not known: how many codes a book has was not recorded."]
    least, most = min(record.cardinalities), max(record.cardinalities)
    if least == most:
        said = f"At every place {least:,} codes are legal, those of its book, and the softmax runs over these"
        said += f"{' and EOS' * ends} alone: a guess costs ln {least:,} = {math.log(least):.2f} nats, and there an "
        said += "untrained model begins."
    else:  # one softmax for all books, as `models.loss` has it
        outputs = most + ends
        said = f"At every place {least:,} to {most:,} codes are legal, those of its book: a guess among these costs "
        said += f"{math.log(least):.2f} to {math.log(most):.2f} nats. In training the softmax of every book runs over "
        said += f"the {most:,} codes of the largest one{' and EOS' * ends}, so an untrained model begins at ln "
        said += f"{outputs:,} = {math.log(outputs):.2f} in all of them. That a smaller book has fewer it has to learn; "
        said += "playing leaves out what a book does not have."
    ids = text_ids(record)
    if ids is None:
        return [said]
    shared = record.section("model").get("vocabulary") == "shared"
    whole = AudioVocabulary(ids, len(record.cardinalities), most, "shared" if shared else "own").size
    wrong, right = math.log(whole), math.log(most)
    return [
        said,
        f"Not ln {whole:,} = {wrong:.2f}, of all ids of text and audio together. A softmax over all of them falls from "
        f"{wrong:.2f} to {right:.2f} by learning which ids are audio: {wrong - right:.2f} nats, and no note of music. "
        "Against the larger number any loss looks good.",
    ]


def _find(tree: Any, name: str) -> Any:
    """The value of the first key `name` in nested JSON, breadth first."""
    level = [tree]
    while level:
        for node in level:
            if isinstance(node, Mapping) and name in node:
                return node[name]
        level = [child for node in level if isinstance(node, Mapping) for child in node.values()]
    return None
