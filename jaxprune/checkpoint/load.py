"""`load`: a model from a published checkpoint, or from a folder that jaxprune wrote."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import CheckpointError
from ..model.architecture import Architecture, parameter_shapes
from ..model.model import Model, Provenance
from .families import Family, architecture_of, family_of
from .read import read_json, read_tensors, resolve

# Endings of tensor names by what they are, per layout. Flax kernels are [in, out], torch's are [out, in].
ENDINGS = {
    "torch": {"kernel": "weight", "bias": "bias", "scale": "weight", "table": "weight"},
    "flax": {"kernel": "kernel", "bias": "bias", "scale": "scale", "table": "embedding"},
}
OLD_ENDINGS = {".gamma": ".weight", ".beta": ".bias"}  # layer norms of checkpoints converted from TensorFlow
SHOWN = 5  # so many tensors are named in an error; the rest are counted


def load(
    source: str | Path,
    *,
    head: str | None = None,
    labels: tuple[str, ...] | int | None = None,
    problem: str | None = None,
    seed: int = 0,
    revision: str | None = None,
) -> Model:
    """A model from a folder or hub id: configuration and parameters, in float32; no torch, no pickled code.

    `head` (classification, question_answering, none), `labels` (names or a count) and `problem` (single_label,
    multi_label, regression) win over the configuration. A head that the file lacks is drawn with `seed` and said so
    in `provenance.warnings`. Raises `CheckpointError` for what is missing, unknown or misshapen, `NumericalError` for
    NaN or Inf.
    """
    folder = resolve(source, revision)
    if (folder / "jaxprune.json").exists():
        from .manifest import load_own

        return load_own(folder)
    config = read_json(folder / "config.json")
    if not isinstance(config, dict):
        raise CheckpointError(f"{folder / 'config.json'} holds no object; fetch it again.")
    names = tuple(f"LABEL_{index}" for index in range(labels)) if isinstance(labels, int) else labels
    architecture = architecture_of(config, head, names, problem)
    tensors, layout = read_tensors(folder)
    params, warnings = parameters_from(tensors, layout, architecture, family_of(config), seed)
    return Model(architecture, params, Provenance(source=str(folder), warnings=tuple(warnings)))


def tensor_name(family: Family, path: tuple[Any, ...], layout: str) -> str:
    """The checkpoint's name for one of our parameters, given as its path in the parameter tree."""
    endings = ENDINGS[layout]
    if path[0] == "layers":
        return f"{family.prefix}{family.layer['.'.join(path[2:4])].format(path[1])}.{endings[path[-1]]}"
    if path[0] == "embed":
        kind = path[2] if len(path) > 2 else "table"
        return f"{family.prefix}{family.outer['.'.join(path[:2])]}.{endings[kind]}"
    if path[0] in ("pooler", "head") and path[0] in family.classifier:
        return f"{family.classifier[path[0]]}.{endings[path[-1]]}"
    raise CheckpointError(f"{family.model_type} has no tensor for {'.'.join(map(str, path))}.")


def parameters_from(
    tensors: dict[str, np.ndarray], layout: str, architecture: Architecture, family: Family, seed: int = 0
) -> tuple[dict[str, Any], list[str]]:
    """Our parameter tree from a checkpoint's tensors, and warnings about a head that had to be drawn.

    Raises `CheckpointError` naming tensors that are missing, unknown, or of another shape than the configuration says.
    """
    tensors = {_modern(name): value for name, value in tensors.items()}
    shapes = parameter_shapes(architecture)
    leaves, tree = jax.tree_util.tree_flatten_with_path(shapes, is_leaf=lambda node: isinstance(node, tuple))
    rng = np.random.default_rng(seed)
    used, missing, wrong, drawn, out = set(), [], [], [], []
    for keys, shape in leaves:
        path = tuple(getattr(key, "key", getattr(key, "idx", None)) for key in keys)
        name = _qa_name(path, layout) if architecture.head == "question_answering" and path[0] == "head" else None
        name = name or tensor_name(family, path, layout)
        found = next((candidate for candidate in _spellings(name, family) if candidate in tensors), None)
        if found is None:
            if path[0] in ("pooler", "head"):
                drawn.append(name)
                out.append(np.zeros(shape, np.float32) if path[-1] == "bias" else _normal(rng, shape))
            else:
                missing.append(name)
                out.append(np.zeros(0))
            continue
        used.add(found)
        value = tensors[found]
        expected = _file_shape(path, shape, layout)
        if value.shape != expected:
            wrong.append(f"{found} has shape {value.shape}, expected {expected}")
            out.append(np.zeros(0))
            continue
        value = value.T if path[-1] == "kernel" and layout == "torch" else value
        out.append(np.ascontiguousarray(value).reshape(shape))
    unknown = [name for name in tensors if name not in used and not _ignorable(name, family)]
    _refuse("tensors are missing", missing)
    _refuse("tensors have the wrong shape", wrong)
    _refuse("tensors are unknown to this family", unknown)
    warnings = []
    if drawn:
        warnings.append(f"the checkpoint has no {', '.join(drawn)}: drawn at random; fine-tune before you use its scores.")
    arrays = [jnp.array(value, jnp.float32) for value in out]  # copies: the file's memory is not ours to keep
    return jax.block_until_ready(jax.tree_util.tree_unflatten(tree, arrays)), warnings


def _file_shape(path: tuple[Any, ...], shape: tuple[int, ...], layout: str) -> tuple[int, ...]:
    """The shape in the file of a parameter that has `shape` here: matrices and vectors, units not spelled out."""
    if path[-1] == "kernel":
        inputs = 3 if path[-2] == "o" else 1  # leading axes that are inputs
        matrix = (int(np.prod(shape[:inputs])), int(np.prod(shape[inputs:])))
        return matrix if layout == "flax" else matrix[::-1]
    return shape if path[0] == "embed" else (int(np.prod(shape)),)


def _qa_name(path: tuple[Any, ...], layout: str) -> str:
    return f"qa_outputs.{ENDINGS[layout][path[-1]]}"


def _normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.normal(0.0, 0.02, shape).astype(np.float32)


def _spellings(name: str, family: Family) -> tuple[str, ...]:
    """A tensor's name with and without the family's prefix."""
    bare = name.removeprefix(family.prefix)
    return name, bare, family.prefix + bare


def _modern(name: str) -> str:
    for old, new in OLD_ENDINGS.items():
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name


def _ignorable(name: str, family: Family) -> bool:
    return name.startswith(family.ignored) or name.removeprefix(family.prefix).startswith(family.ignored)


def _refuse(what: str, names: list[str]) -> None:
    if names:
        rest = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        raise CheckpointError(
            f"{what}: {'; '.join(names[:SHOWN])}{rest}. The weights do not fit config.json; fetch both from one place."
        )
