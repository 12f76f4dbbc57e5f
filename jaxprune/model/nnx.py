"""A model as a `flax.nnx` module and back, for those who train or serve with nnx. Importing this imports Flax."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array

from ..errors import CheckpointError
from .architecture import Architecture
from .model import Model, Provenance
from .padded import logits
from .shapes import parameter_shapes


class Transformer(nnx.Module):
    """A jaxprune model whose parameters are `nnx.Param`s: `module.layers[0].attention.q.kernel`.

    The architecture is static, so `nnx.split`, `nnx.merge`, `nnx.jit` and `nnx.grad` work, and layers of unequal size
    need nothing special. Notes are no part of a module, as they are none of the pytree. There is no dropout.
    """

    def __init__(self, architecture: Architecture, params: dict[str, Any]):
        self.architecture = architecture
        for name, tree in params.items():
            setattr(self, name, _to_containers(tree))

    def __call__(self, input_ids: Any, attention_mask: Any = None, token_type_ids: Any = None) -> Array:
        """The logits that `jaxprune.logits` gives for plainly padded token ids, [rows, length]."""
        model = Model(self.architecture, _params_of(self))
        return logits(model, input_ids, attention_mask, token_type_ids)


def to_nnx(model: Model) -> Transformer:
    """`model` as a module that holds copies of its parameters, so that training it leaves `model` as it is."""
    return Transformer(model.architecture, jax.tree.map(jnp.array, model.params))


def from_nnx(module: nnx.Module) -> Model:
    """The model in a module that `to_nnx` made, with the parameters it has now; the inverse of `to_nnx`.

    A module has no notes: `from_nnx(module).with_notes_of(model)` takes along where the model's tokenizer is, and what
    was done to it.

    Raises `CheckpointError` for any other module, and where parameters were replaced by some of another shape.
    """
    if not isinstance(module, Transformer):
        raise CheckpointError(f"a {type(module).__name__} is no module that to_nnx made; give one of those.")
    params = _params_of(module)
    shapes, expected = _named(jax.tree.map(np.shape, params)), _named(parameter_shapes(module.architecture))
    for name in {**expected, **shapes}:
        if shapes.get(name) != expected.get(name):
            raise CheckpointError(
                f"parameter {name} has shape {shapes.get(name, 'none (missing)')}, the module's architecture says "
                f"{expected.get(name, 'none (extra)')}; cut models, not modules."
            )
    return Model(module.architecture, jax.tree.map(jnp.array, params), Provenance(dropped=True))


def _to_containers(tree: Any) -> Any:
    if isinstance(tree, dict):
        return nnx.Dict({name: _to_containers(entry) for name, entry in tree.items()})
    if isinstance(tree, list):
        return nnx.List([_to_containers(entry) for entry in tree])
    return nnx.Param(tree)


def _from_containers(tree: Any) -> Any:
    if isinstance(tree, nnx.Dict):
        return {name: _from_containers(entry) for name, entry in tree.items()}
    if isinstance(tree, nnx.List):
        return [_from_containers(entry) for entry in tree]
    return tree[...]


def _params_of(module: Transformer) -> dict[str, Any]:
    return {
        name: _from_containers(getattr(module, name))
        for name in parameter_shapes(module.architecture)
        if hasattr(module, name)
    }


def _named(shapes: Any) -> dict[str, tuple[int, ...]]:
    flat, _ = jax.tree_util.tree_flatten_with_path(shapes, is_leaf=lambda node: isinstance(node, tuple))
    return {jax.tree_util.keystr(path, simple=True, separator="."): shape for path, shape in flat}
