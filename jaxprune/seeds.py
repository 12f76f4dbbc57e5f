"""The range of seeds, the same for every draw."""

from typing import Any

from .errors import SettingsError


def check_seed(seed: Any) -> None:
    """Raise `SettingsError` unless `seed` is a whole number that NumPy's and JAX's generators both take."""
    if isinstance(seed, bool) or not hasattr(seed, "__index__") or not 0 <= int(seed) < 2**32:
        raise SettingsError(f"seed is {seed!r}, expected an integer from 0 to {2**32 - 1}.")
