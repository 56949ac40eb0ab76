"""The structures of `step.cpp`, field by field."""

from __future__ import annotations

import ctypes

POINTER, INT, FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float


class Matrix(ctypes.Structure):
    _fields_ = [
        *((name, POINTER) for name in ("weight", "scale", "bias")),
        *((n, INT) for n in ("in_", "out", "kind")),
    ]


class Norm(ctypes.Structure):
    _fields_ = [("gain", POINTER), ("bias", POINTER)]


class Expert(ctypes.Structure):
    _fields_ = [(name, Matrix) for name in ("in_", "up", "out", "back")]


class Block(ctypes.Structure):
    _fields_ = [
        *((n, Norm) for n in ("attention_norm", "cross_norm", "feedforward_norm", "query_norm", "key_norm")),
        *((n, Matrix) for n in ("qkv", "attention_out", "cross_query", "cross_out", "gate", "up", "down")),
        *((n, Expert) for n in ("attention_expert", "expert")),
        *((n, POINTER) for n in ("keys", "values", "memory_keys", "memory_values")),
    ]


class Program(ctypes.Structure):
    _fields_ = [
        *((n, INT) for n in ("width", "codebooks", "rows", "heads", "kv_heads", "head")),
        *((n, INT) for n in ("cross_heads", "cross_kv_heads", "cross_head", "layers", "layer_norm")),
        *((n, INT) for n in ("positions", "memory_places", "threads", "paired")),
        *((n, FLOAT) for n in ("eps", "scale", "cross_scale", "unused")),
        *((n, POINTER) for n in ("embedding", "condition", "added", "cosine", "sine", "cross_cosine", "cross_sine")),
        *((n, POINTER) for n in ("memory_lengths", "before")),
        ("norm", Norm),
        ("head_matrix", Matrix),
        *((n, POINTER) for n in ("blocks", "x", "h", "heads_out", "wide", "narrow", "own")),
        *((n, INT) for n in ("scores_size", "sums_size", "pairs_size")),
    ]
