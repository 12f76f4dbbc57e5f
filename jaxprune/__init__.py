"""Structured pruning of Transformer checkpoints in JAX."""
