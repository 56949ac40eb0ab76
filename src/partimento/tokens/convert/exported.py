"""What `pack export` writes beside the codes, so that they can come back whole: the codec, and each clip's labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from partimento.errors import PartimentoError
from partimento.tokens import labelfiles
from partimento.tokens.convert import rows
from partimento.tokens.spec import CodecSpec

EXPORT = "export.json"
FORMAT = "partimento export"


def content(spec: CodecSpec, fingerprint: str, format: str) -> dict[str, Any]:
    """Of export.json, and of the metadata of an exported Parquet file."""
    return {"format": FORMAT, "codec": spec.to_json(), "fingerprint": fingerprint, "files": format}


def read_spec(root: Path, kind: str, files: Sequence[Path]) -> CodecSpec | None:
    """The codec that an export below `root` was of; None for other files. Raises CONVERT002, PACK013."""
    path = root / EXPORT
    tree = labelfiles.json_value(labelfiles.text(path), str(path)) if path.is_file() else None
    if tree is None and kind == "rows":
        try:
            tree = rows.exported(files[0])
        except PartimentoError:
            return None  # it becomes a reject, with this reason, when its rows are read
    if tree is None:
        return None
    try:
        if not isinstance(tree, Mapping) or tree["format"] != FORMAT:
            raise ValueError("it is not of `partimento pack export`")
        spec = CodecSpec.from_json(tree["codec"])
        if not all(isinstance(text, str) for text in (spec.codec, spec.weights, spec.layout)):
            raise ValueError("the codec's name, weights or layout is no text")
        if not all(type(n) is int for n in (*spec.cardinalities, *spec.books, spec.sample_rate)):
            raise ValueError("a number of the codec is not whole")
        return spec
    except (KeyError, TypeError, ValueError, ArithmeticError) as err:
        raise PartimentoError(
            "CONVERT002",
            "export.json cannot be read",
            where=str(path),
            why=f"it does not tell of a codec: {err}",
            next="remove that file; the codec is then what the files say, or --codec",
        ) from err
