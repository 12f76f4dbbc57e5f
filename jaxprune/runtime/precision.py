"""Products of float32 in full, for what tells rounding from faults.

Where nothing else is said, accelerators round what they multiply: to 10 bits after the point on CUDA (TF32), to 7 on a
TPU. A model's own products may be rounded so; sums that others cancel, and comparisons of two programs, may not.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import jax

_SETTING = "jax_default_matmul_precision"


def default_precision() -> str | None:
    """Of products that say nothing, as asked for with JAX's setting of that name; here and now, contexts included."""
    return getattr(jax.config, _SETTING)


def rounds_products() -> bool:
    """Whether products of float32 are rounded where nothing else is said."""
    return jax.default_backend() != "cpu" and default_precision() not in ("highest", "float32")


@contextmanager
def full_precision() -> Iterator[None]:
    """Within, programs are made that round no products; on a CPU they are those that there were."""
    if not rounds_products():
        yield
        return
    with jax.default_matmul_precision("highest"):
        yield
