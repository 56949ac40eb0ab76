"""Items of NPQ files and of their text form."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from partimento import commit
from partimento.errors import PartimentoError
from partimento.tokens import npq, npqtext
from partimento.tokens.convert.item import Item, Reject, npq_facts
from partimento.tokens.convert.labels import Beside


def items(root: Path, files: Sequence[Path]) -> Iterator[Item | Reject]:
    """One item a file, in the order of `files`, which lie below `root`. Raises PACK013 (labels)."""
    beside = Beside(root)
    for path in files:
        name = path.relative_to(root).as_posix()
        labels = beside.of(path)
        try:
            file = read(path)
        except PartimentoError as err:
            yield Reject.of(name, err)
            continue
        facts, notes = npq_facts(file)
        clip = labels.clip or path.relative_to(root).with_suffix("").as_posix()
        yield Item(clip, name, file.codes_TK, facts, labels, notes)
    for name in beside.missing({path.relative_to(root).as_posix() for path in files}):
        yield Reject(name, "CONVERT002", "metadata.jsonl names this file, and it is not there")


def read(path: Path) -> npq.NpqFile:
    """An NPQ file of any version, binary or text, by its first bytes. Raises what npq.read and npqtext.read raise."""
    try:
        with open(path, "rb", opener=commit.regular) as stream:
            head = stream.read(64)
    except OSError as err:
        raise PartimentoError("SYS004", f"{path} cannot be read", where=str(path), why=err.strerror) from err
    return npqtext.read(path) if npqtext.is_text(head) else npq.read(path)
