"""Pruning without training: measure, search, refit, cut, and the methods made of them (`methods`)."""
