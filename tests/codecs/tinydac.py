"""Small DAC checkpoints of the published geometries, random numbers everywhere (biases too: they show at edges)."""

import torch
from transformers import DacConfig, DacModel
from transformers.utils import logging

GEOMETRIES = {16000: (2, 4, 5, 8), 24000: (2, 4, 5, 8), 44100: (2, 4, 8, 8)}


def tiny_dac(rate=44100, strides=None, books=4, seed=0):
    torch.manual_seed(seed)
    config = DacConfig(
        encoder_hidden_size=4,
        decoder_hidden_size=32,
        downsampling_ratios=list(strides or GEOMETRIES[rate]),
        n_codebooks=books,
        codebook_size=64,
        sampling_rate=rate,
    )
    model = DacModel(config).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "codebook" in name:
                value.normal_()
            elif name.endswith("bias"):
                value.normal_(std=0.1)
            elif value.dim() == 3 and "alpha" not in name:
                value.normal_(std=(0.4 if "decoder" in name else 1) * value[0].numel() ** -0.5)
    return model


def save(model, folder):
    logging.disable_progress_bar()
    model.save_pretrained(folder)
    return str(folder)
