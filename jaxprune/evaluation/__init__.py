"""Batches to predictions, answers and scores."""
