"""Weights that others trained, in and out by name: transformers' Dia and MusicGen, and nari-labs' own Dia."""

from partimento.models.weights.described import Described
from partimento.models.weights.dia import GENERATIONS, describe_dia, dia_config, export_dia, import_dia
from partimento.models.weights.musicgen import (
    describe_musicgen,
    export_musicgen,
    export_musicgen_whole,
    import_musicgen,
    import_musicgen_whole,
    musicgen_config,
    musicgen_whole_config,
)
from partimento.models.weights.nari import describe_nari, export_nari, import_nari, nari_config
from partimento.models.weights.places import WeightsReport

__all__ = [
    "GENERATIONS",
    "Described",
    "WeightsReport",
    "describe_dia",
    "describe_musicgen",
    "describe_nari",
    "dia_config",
    "export_dia",
    "export_musicgen",
    "export_musicgen_whole",
    "export_nari",
    "import_dia",
    "import_musicgen",
    "import_musicgen_whole",
    "import_nari",
    "musicgen_config",
    "musicgen_whole_config",
    "nari_config",
]
