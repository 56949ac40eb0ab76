"""The published models of bench/ablation_mot.py, made small and in the run: a Llama that has read captions, and a
MusicGen decoder that has heard the band. Both are those of transformers, trained in a plain loop of torch, so that what
partimento is given are directories of `save_pretrained` and nothing that it made itself."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from torch.nn import functional

from partimento import commit
from partimento.audio.captions import caption
from partimento.audio.synth import labels_of
from partimento.tokens.draw import Draw
from partimento.tokens.pack import Pack
from partimento.tokens.patterns import Pattern
from partimento.tokens.spec import Specials

BOS, EOS = "<|begin_of_text|>", "<|end_of_text|>"
WORDS, WIDTH, LAYERS, HEADS, INNER = 512, 128, 4, 4, 384
EXPERT_WIDTH, EXPERT_INNER = 128, 512
READ, HEARD, HELD_OUT = 7000, 8000, 9000  # seeds of the band that nothing else is made of


def sentences(seed: int, count: int) -> list[str]:
    """Captions of loops that are never played."""
    return [caption(labels_of(seed + number // 500, number % 500), seed, number) for number in range(count)]


def write_llama(folder: Path, steps: int, batch: int = 48) -> dict[str, Any]:
    """A Llama of `save_pretrained` that has learned to write captions, with its tokenizer; what it reached."""
    kept = folder / "pretrained.json"
    if kept.exists():
        found: dict[str, Any] = json.loads(kept.read_text())
        return found
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer(sentences(READ, 4000))
    tokenizer.save(str(folder / "tokenizer.json"))
    torch.manual_seed(0)
    model: Any = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=WORDS,
            hidden_size=WIDTH,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            num_key_value_heads=HEADS // 2,
            intermediate_size=INNER,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.token_to_id(BOS),
            eos_token_id=tokenizer.token_to_id(EOS),
        )
    )
    texts = [_ids(tokenizer, text) for text in sentences(READ, batch * steps)]
    for step, optimizer in _steps(model, steps, peak=3e-3):
        loss = _text_loss(model, texts[step * batch : (step + 1) * batch])
        loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    held_out = [_ids(tokenizer, text) for text in sentences(HELD_OUT, 500)]
    with torch.no_grad():
        nats = float(_text_loss(model, held_out))
    counts = Counter(one for ids in texts for one in ids[1:])
    every = [counts[one] for ids in held_out for one in ids[1:]]
    unigram = math.fsum(math.log(counts.total() / max(1, count)) for count in every) / len(every)
    longest = max(map(len, texts + held_out))
    facts = {"nats": nats, "unigram": unigram, "longest": longest, "parameters": _size(model), "steps": steps}
    commit.record(kept, facts)
    return facts


def write_musicgen(folder: Path, pack: Pack | None, steps: int, batch: int = 16, rows: int = 256) -> dict[str, Any]:
    """A MusicGen decoder of `save_pretrained` that has learned the codes of a pack, without words; with no pack, as it
    was drawn."""
    kept = folder / "pretrained.json"
    if kept.exists():
        found: dict[str, Any] = json.loads(kept.read_text())
        return found
    torch.manual_seed(1)
    books, codes = (pack.spec.codebooks, pack.spec.cardinality) if pack is not None else (4, 1024)
    config = transformers.MusicgenConfig(
        text_encoder={"model_type": "t5"},
        audio_encoder={"model_type": "encodec"},
        decoder={
            "vocab_size": codes,
            "hidden_size": EXPERT_WIDTH,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "ffn_dim": EXPERT_INNER,
            "num_codebooks": books,
            "pad_token_id": codes,
            "bos_token_id": codes,
            "dropout": 0.0,
        },
    )
    model: Any = transformers.MusicgenForCausalLM(config.decoder)  # type: ignore[arg-type]
    facts: dict[str, Any] = {"parameters": _size(model), "steps": steps if pack is not None else 0}
    if pack is not None:
        pattern, specials = Pattern.named("delay", books), Specials.after(codes)
        draw, held_out = (Draw(pack, pattern, specials, split=name, window=rows) for name in ("train", "valid"))
        for step, optimizer in _steps(model, steps, peak=2e-3):
            loss = _code_loss(model, draw.batch(range(step * batch, (step + 1) * batch)).grid_BSK, codes)
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            facts["nats"] = float(_code_loss(model, held_out.batch(range(32)).grid_BSK, codes))
    model.save_pretrained(folder)
    commit.record(kept, facts)
    return facts


def _tokenizer(texts: list[str]) -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=WORDS - 2, initial_alphabet=alphabet))
    made.add_special_tokens([AddedToken(BOS, special=True), AddedToken(EOS, special=True)])
    bos = made.token_to_id(BOS)
    made.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, bos)])
    return made


def _ids(tokenizer: Tokenizer, text: str) -> list[int]:
    end: Any = tokenizer.token_to_id(EOS)
    return [*tokenizer.encode(text).ids, end]


def _text_loss(model: Any, texts: list[list[int]]) -> Tensor:
    """Mean over the ids behind BOS. Texts are followed by pads, which nothing real attends to."""
    width = max(map(len, texts))
    ids_BM = torch.tensor([ids + [0] * (width - len(ids)) for ids in texts])
    real_BM = torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids in texts]).bool()
    logits = model(input_ids=ids_BM[:, :-1]).logits
    return functional.cross_entropy(logits[real_BM[:, 1:]], ids_BM[:, 1:][real_BM[:, 1:]])


def _code_loss(model: Any, grid_BSK: Tensor, codes: int) -> Tensor:
    """Mean over the codes of a delayed grid; MusicGen has one mark for everything that is none."""
    ids_BSK = grid_BSK.long().clamp(max=codes)
    ids_RS = ids_BSK.permute(0, 2, 1).flatten(0, 1)
    logits = model(input_ids=ids_RS[:, :-1]).logits  # [B * K, S, V]
    targets_RS = ids_RS[:, 1:]
    return functional.cross_entropy(logits[targets_RS < codes], targets_RS[targets_RS < codes])


def _steps(model: Any, steps: int, peak: float) -> Iterator[tuple[int, torch.optim.Optimizer]]:
    """Warm-up, cosine to zero, gradients cleared; the loss and the step are the caller's."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak, weight_decay=0.01, betas=(0.9, 0.95))
    warmup = max(1, steps // 20)
    model.train()
    for step in range(steps):
        rate = min((step + 1) / warmup, 0.5 * (1 + math.cos(math.pi * step / steps)))
        for group in optimizer.param_groups:
            group["lr"] = peak * rate
        optimizer.zero_grad()
        yield step, optimizer
    model.eval()


def _size(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
