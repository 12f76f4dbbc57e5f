"""What a checkpoint calls each parameter of ours, and the shape that it has there."""

from math import prod

from ..errors import CheckpointError
from ..model.architecture import LAST_LAYERS, Architecture
from ..model.shapes import parameter_shapes
from .families import Family
from .manifest import named_parameters


def tensor_names(family: Family, architecture: Architecture) -> dict[str, str]:
    """Our parameter ("layers.0.attention.q.kernel") -> the checkpoint's tensor, without the encoder's prefix."""
    modules = dict(family.modules)
    if head := family.heads.get(architecture.head):
        parts = {
            **{"pooler": head.pooler, "pooler.norm": head.pooler_norm},
            **{"head.transform": head.transform, "head.norm": head.transform_norm},
        }
        modules |= {"head": head.output} | {ours: module for ours, module in parts.items() if module}
    names = {}
    for ours in named_shapes(architecture):
        if ours.startswith("head.") and LAST_LAYERS[architecture.head].pooled:
            continue  # dense layers of an embedding model lie in files of their own
        module, _, leaf = ours.rpartition(".")
        number = module.split(".")[1] if module.startswith("layers.") else ""
        if ours in modules:  # a table is a leaf of its own
            module, leaf = ours, "weight"
        template = module.replace(f"layers.{number}.", "layers.{}.", 1) if number else module
        if template not in modules:
            raise CheckpointError(
                f"the row of family {family.model_type} does not name {template}, which its models have; add it to its "
                "modules."
            )
        names[ours] = f"{modules[template].format(number)}.{'bias' if leaf == 'bias' else 'weight'}"
    return names


def file_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that a parameter of ours has in a file: units flattened, kernels [out, in]."""
    if name.endswith((".bias", ".scale")):
        return (prod(shape),)
    if not name.endswith(".kernel"):
        return shape
    inputs = prod(shape[:-1]) if name.endswith(".o.kernel") else shape[0]
    return (prod(shape) // inputs, inputs)


def named_shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """Our parameters by name -> their shapes."""
    return named_parameters(parameter_shapes(architecture))[0]
