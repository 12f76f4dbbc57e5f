import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune.model import Architecture, LayerSizes, Model, parameter_shapes


@pytest.fixture
def tiny():
    """tiny(heads=2, neurons=32): a random classifier of two equal layers."""

    def make(heads: int = 2, neurons: int = 32) -> Model:
        size = LayerSizes(groups=heads, neurons=neurons)
        architecture = Architecture(
            family="bert",
            vocab=40,
            hidden=16,
            head_width=8,
            layers=(size, size),
            max_positions=32,
            token_types=2,
            head="classification",
            labels=("no", "yes"),
        )
        random = np.random.RandomState(0)
        params = jax.tree.map(
            lambda shape: jnp.asarray(random.normal(0, 0.1, shape), jnp.float32),
            parameter_shapes(architecture),
            is_leaf=lambda node: isinstance(node, tuple),
        )
        return Model(architecture, params)

    return make
