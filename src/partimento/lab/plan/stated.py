"""Codes that are planned for without a pack of them: of which codec they will be, and how much music."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from partimento.codecs.pretrained import SHORT
from partimento.codecs.resident import CARD, RESIDENTS, folder_of, read_card, spec_of
from partimento.errors import PartimentoError
from partimento.tokens.spec import CodecSpec


@dataclass(frozen=True)
class Stated:
    """`hours` of music in the train split; None where nobody said."""

    spec: CodecSpec
    hours: float | None = None

    @property
    def frames(self) -> int | None:
        return None if self.hours is None else round(3600 * self.hours * self.spec.frame_rate)


def codes_of(codec: str) -> CodecSpec:
    """The shape of the mono codes of a codec in the package, of an exported codec's folder, or of a published one (its
    short name or its name on the hub), with the books that it is commonly used with. No weights are read.

    Raises CODEC001 (none of these), CODEC002 (a card that is damaged).
    """
    if codec in RESIDENTS or (folder_of(codec) / CARD).is_file():
        return spec_of(read_card(folder_of(codec)))
    for name, known in SHORT.items():
        if codec in (name, known.hub):
            return CodecSpec(name, "", known.sample_rate, known.frame_rate, (known.cardinality,) * known.codebooks)
    raise PartimentoError(
        "CODEC001",
        f"there is no codec {codec!r} whose shape is known",
        why=f"known are {', '.join([*RESIDENTS, *SHORT])}, and folders that partimento codec export wrote",
        next="partimento codec list",
    )


def with_shapes(err: PartimentoError, backbone: str, experts_from: str | None) -> PartimentoError:
    """WEIGHTS020 of a plan: what is not there can be planned with by the name of its shape."""
    from partimento.runs.backbones import SHAPES

    def shape(name: str, otherwise: str) -> str:
        last = Path(name).name
        return last if last in SHAPES else otherwise

    settings = [f"model.backbone={shape(backbone, 'Llama-3.2-1B')}"]
    if experts_from is not None:
        settings.append(f"model.experts_from={shape(experts_from, 'musicgen-small')}")
    download = f" (to train: {err.next})" if err.next and err.next.startswith("hf ") else ""
    err.next = f"plan without it, with the name of a shape: {' '.join(settings)}{download}"
    return err
