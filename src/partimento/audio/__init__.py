"""Hear: audio files in and out, loudness, spectra, and the band that makes labelled music."""
