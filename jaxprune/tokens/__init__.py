"""Texts to batches: tokenizers, windows, packing."""
