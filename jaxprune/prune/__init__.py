"""Pruning without training: importance, search, refit, cut, and the methods made of them."""
