"""Small random checkpoints of transformers, as save_pretrained writes them, and a tokenizer like Llama 3's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

BOS, EOS = "<|begin_of_text|>", "<|end_of_text|>"
WORDS = 60  # ids of text
LETTERS = sorted({*"abcdefghijklmnopqrstuvwxyz,.<|>_1234567890", "Ġ"})  # the first of them; the rest are marks


def llama_config(**other: Any) -> transformers.LlamaConfig:
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"num_key_value_heads": 2, "head_dim": 4, "vocab_size": WORDS, "max_position_embeddings": 256}
    scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    scaling |= {"original_max_position_embeddings": 32, "rope_theta": 10000.0}
    marks = {"bos_token_id": WORDS - 2, "eos_token_id": WORDS - 1, "tie_word_embeddings": True, "rms_norm_eps": 1e-5}
    return transformers.LlamaConfig(**{**sizes, **marks, "rope_parameters": scaling, **other})


def write_llama(folder: Path, *, seed: int = 0, shard: str = "5GB", **other: Any) -> transformers.LlamaForCausalLM:
    torch.manual_seed(seed)
    model = transformers.LlamaForCausalLM(llama_config(**other)).eval()
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, mean=float("norm" in name), std=0.2)
    model.save_pretrained(folder, max_shard_size=shard)
    write_tokenizer(folder)
    return model


def write_tokenizer(folder: Path, *, adds_bos: bool = True) -> None:
    """Bytes of text as Llama 3 spells them (few letters are known here), and its marks at the end of the ids."""
    made = Tokenizer(models.BPE({letter: n for n, letter in enumerate(LETTERS)}, [], unk_token=None))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    marks = [AddedToken(f"<|reserved_{n}|>", special=True) for n in range(WORDS - 2 - len(LETTERS))]
    made.add_special_tokens([*marks, AddedToken(BOS, special=True), AddedToken(EOS, special=True)])
    if adds_bos:
        made.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, WORDS - 2)])
    made.save(str(folder / "tokenizer.json"))


def musicgen_config(layers: int = 3, width: int = 8, inner: int = 12) -> transformers.MusicgenConfig:
    text = {"model_type": "t5", "vocab_size": 32, "d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2}
    codec = {"model_type": "encodec", "sampling_rate": 32000, "upsampling_ratios": [4, 2], "num_filters": 4}
    codec |= {"hidden_size": 8, "codebook_dim": 8, "codebook_size": 16, "num_lstm_layers": 1}
    codes = {"vocab_size": 16, "hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": 2}
    codes |= {"ffn_dim": inner, "num_codebooks": 2, "pad_token_id": 16, "bos_token_id": 16}
    return transformers.MusicgenConfig(text_encoder=text, audio_encoder=codec, decoder=codes)


def write_musicgen(folder: Path, *, whole: bool = True, seed: int = 1, **sizes: int) -> torch.nn.Module:
    """MusicgenForConditionalGeneration, or its decoder alone: MusicgenForCausalLM."""
    torch.manual_seed(seed)
    config = musicgen_config(**sizes)
    sort = transformers.MusicgenForConditionalGeneration if whole else transformers.MusicgenForCausalLM
    model = sort(config if whole else config.decoder).eval()
    model.save_pretrained(folder)
    return model
