"""`partimento codec`: codecs, listed, checked and exported."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from partimento.cli.terminal import json_option, lines, progress, quiet_option, result, table

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from partimento.codecs.codec import Codec


class Books(click.ParamType):
    """9 or 9,4."""

    name = "N[,N]"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(int(part) for part in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is not a number of books, or two with a comma (9,4)", param, ctx)


@click.group()
def command() -> None:
    """List, check and export codecs."""


@command.command("list")
@json_option
def list_(as_json: bool) -> None:
    """List the codecs that can be named, and whether their weights are on this machine.

    Besides these, --codec takes folders, other names of the Hugging Face hub, and module:function.
    """
    from partimento.codecs.pretrained import CONFIG, SHORT, WEIGHTS, Published
    from partimento.codecs.resident import RESIDENTS, read_card, spec_of
    from partimento.runs import hub

    own = {}
    for name, folder in RESIDENTS.items():
        spec = spec_of(read_card(folder))
        own[name] = Published("", spec.sample_rate, int(spec.hop), spec.cardinality, spec.codebooks, spec.codebooks)
    head = ["codec", "Hz", "frames/s", "books", "of", "codes", "kbit/s", "here", "from"]
    rows: list[list[Any]] = []
    for name, one in {**own, **SHORT}.items():
        found = hub.cached(one.hub, CONFIG) if one.hub else None
        here = not one.hub or (found is not None and any(found.glob(f"{WEIGHTS}*")))
        rate = float(one.frame_rate)
        place = one.hub or "the package"
        rows.append([name, one.sample_rate, rate, one.codebooks, one.most, one.cardinality, one.kbps, here, place])
    text = table(head, [[*row[:7], "yes" if row[7] else "no", row[8]] for row in rows])
    absent = next((row[8] for row in rows if not row[7]), None)
    hint = "" if absent is None else f"\nto have one that is not here: hf download {absent}"
    result({"codecs": [dict(zip(head, row, strict=True)) for row in rows]}, as_json, text + hint)


@command.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--codec", "name", default="resident-44k", show_default=True, help="Name or folder; see `codec list`.")
@click.option("--layout", default="mono", show_default=True, help="mono, left-right or mid-side.")
@click.option("--books", type=Books(), help="Codebooks, for two channels of each: 9,4.")
@click.option("--upmix", is_flag=True, help="Take files of one channel as two where the layout has two.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or mps.")
@click.option("--picture", type=click.Path(path_type=Path, dir_okay=False), help="PNG of what the first file becomes.")
@quiet_option
@json_option
def check(
    files: tuple[Path, ...],
    name: str,
    layout: str,
    books: tuple[int, ...] | None,
    upmix: bool,
    device: str,
    picture: Path | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Send audio FILES (or folders) through a codec and measure what comes back.

    mel7 is the distance of DAC's seven mel scales (lower is better), mel7_low_pass what the same audio without anything
    above 2 kHz scores. mel7_by_books, equal (codes made in chunks of a second that equal those made in one pass) and
    equal_worst_seam are of the first 10 s of each file. lag is in samples: other than 0, the codec shifts its output.
    """
    from partimento.audio import files as audio
    from partimento.codecs.codec import open_codec
    from partimento.codecs.measure import check as measure

    codec = open_codec(name, device, layout=layout, books=books)
    paths = audio.discover(list(files))
    with progress(quiet) as display:
        display.stage("check", "each file is encoded, decoded and compared")
        found = measure(codec, _heard(paths, codec, upmix, display, picture))
    values = {"codec": codec.spec.codec, "layout": codec.spec.layout, "weights": codec.spec.weights, **found.to_json()}
    by_books = ", ".join(f"{count}: {value}" for count, value in values["mel7_by_books"].items())
    result(values, as_json, lines({**values, "mel7_by_books": by_books}))


def _heard(
    paths: list[Path], codec: Codec, upmix: bool, display: Any, picture: Path | None
) -> Iterator[NDArray[np.float32]]:
    """Each file as the codec takes it."""
    from partimento.audio import files as audio
    from partimento.codecs.layout import arrange
    from partimento.codecs.picture import draw
    from partimento.errors import PartimentoError

    for number, path in enumerate(paths):
        sound = audio.read_isolated(path)
        try:
            wave_CN = arrange(sound.wave_CN, codec.spec.layout, upmix=upmix).wave_CN
        except PartimentoError as err:
            err.where = str(path)
            raise
        wave_CN = audio.resample(wave_CN, sound.sample_rate, codec.spec.sample_rate)
        if picture is not None and number == 0:
            draw(picture, codec, wave_CN, path.name)
        yield wave_CN
        display.update(number + 1, len(paths))


@command.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--to", "folder", required=True, type=click.Path(path_type=Path), help="Folder of the codec.")
@click.option("--name", help="What packs of its codes call it: the folder's name, or that of the codes that were kept.")
@quiet_option
@json_option
def export(run: Path, folder: Path, name: str | None, quiet: bool, as_json: bool) -> None:
    """Write the codec that RUN trained: weights in half precision, and a card with its measured figures.

    That of its best validation is taken. The folder can be given to --codec everywhere, and to model.weights to train
    on from there.
    """
    from partimento.training.export import export_resident

    with progress(quiet) as display:
        card = export_resident(run, folder, name=name, progress=display)
    result(card, as_json, f"{folder}\nnext: partimento codec check FILES --codec {folder}")
