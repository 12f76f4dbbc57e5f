"""Texts and labels in, batches and scores out."""
