"""`load`: a checkpoint of any family, or a folder of ours, as a `Model`."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from math import prod
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from ..checks import check_seed
from ..errors import CheckpointError, SettingsError
from ..model.architecture import Architecture, parameter_shapes
from ..model.model import Model, Provenance
from .config import Task, architecture_from, choose_task, declared_task, family_of, head_fields
from .families import FAMILIES, Family
from .files import inside, listed, read_json
from .hub import locate
from .layout import separated
from .manifest import DTYPES, MANIFEST, check_finite, load_own, named_parameters, stored_type
from .read import FLOATS, Stored, read_tensors
from .write import TOKENIZER_FILES

NEW_WEIGHTS = "new, random ones"  # in the warning that fine-tuning makes obsolete


def load(
    source: str | Path,
    *,
    head: str | None = None,
    labels: Sequence[str] | int | None = None,
    problem: str | None = None,
    seed: int = 0,
    revision: str | None = None,
    dtype: str = "float32",
    host: bool = False,
) -> Model:
    """The model in `source`: a folder that jaxprune saved, a Hugging Face checkpoint's folder, or a hub id.

    `head` ("classification", "question_answering", "causal_lm", "none"), `labels` (names, or how many) and `problem`
    ("single_label", "multi_label", "regression") default to what the checkpoint says. Where the file's head is for
    another task, or missing, a new one is drawn with `seed` and a warning goes into the provenance.

    Parameters are float32 JAX arrays, whatever the file has. `dtype` "bfloat16" halves their memory, "auto" takes
    bfloat16 where the file does; products are computed in float32 all the same. The file's own types are noted, and
    `save` writes in them. With `host` they are NumPy arrays, for pruning with `stream` on a device that could not hold
    them.

    Raises `CheckpointError` for what is missing, damaged, unknown or unsafe; `NumericalError` for NaN or Inf;
    `SettingsError` for a request that has no meaning.
    """
    check_seed(seed)
    if dtype not in DTYPES:
        raise SettingsError(f"dtype is {dtype!r}, expected one of {', '.join(DTYPES)}.")
    folder, origin = locate(source, revision)
    for name in TOKENIZER_FILES:  # they are copied when the model is saved
        inside(folder, name)
    if (folder / MANIFEST).exists():
        return _with_task(load_own(folder, dtype, host), head, labels, problem, seed)
    where = str(folder / "config.json")
    config = read_json(inside(folder, "config.json"), "give a checkpoint's folder")
    family = family_of(config, where)
    tensors = _tensors(folder, family)
    declared = _task_of_head(family, config, tensors, where) or declared_task(family, config, where)
    task = choose_task(declared, head, labels, problem, where)
    architecture = architecture_from(family, config, task, where)
    found = _parameters(folder, tensors, family, architecture, task, declared, dtype)
    params, warnings = _complete(architecture, found, seed, str(source), host)
    types = {ours: tensors[name].dtype for ours, name in tensor_names(family, architecture).items() if name in tensors}
    return Model(architecture, params, Provenance(str(folder), {**origin, "source_config": config}, warnings, types))


def tensor_names(family: Family, architecture: Architecture) -> dict[str, str]:
    """Our parameter ("layers.0.attention.q.kernel") -> the checkpoint's tensor, without the encoder's prefix."""
    modules = dict(family.modules)
    if architecture.head != "none":
        head = family.heads[architecture.head]
        modules |= {"head": head.output} | ({"pooler": head.pooler} if head.pooler else {})
    names = {}
    for ours in _shapes(architecture):
        module, _, leaf = ours.rpartition(".")
        number = module.split(".")[1] if module.startswith("layers.") else ""
        if ours in modules:  # a table is a leaf of its own
            module, leaf = ours, "weight"
        template = module.replace(f"layers.{number}.", "layers.{}.", 1) if number else module
        names[ours] = f"{modules[template].format(number)}.{'bias' if leaf == 'bias' else 'weight'}"
    return names


def _task_of_head(family: Family, config: Mapping[str, Any], tensors: Mapping[str, Stored], where: str) -> Task | None:
    """The task of the head that the files hold, where config.json names no class or the bare encoder; else None."""
    if config.get("architectures") not in (None, [], [f"{family.classes}Model"]):
        return None
    for kind, name in (("classification", "ForSequenceClassification"), ("question_answering", "ForQuestionAnswering")):
        head = family.heads.get(kind)
        stored = None if head is None else tensors.get(f"{head.output}.weight")
        if stored is not None and stored.shape:
            counted = {} if config.get("id2label") or config.get("num_labels") else {"num_labels": stored.shape[0]}
            return declared_task(family, {**config, **counted, "architectures": [family.classes + name]}, where)
    return None


def _tensors(folder: Path, family: Family) -> dict[str, Stored]:
    """The files' tensors, by their names without the encoder's prefix."""
    tensors: dict[str, Stored] = {}
    for name, stored in read_tensors(folder).items():
        short = name.removeprefix(family.prefix)
        if short in tensors:
            raise CheckpointError(f"{folder} holds tensor {short} with and without {family.prefix!r}; delete one.")
        tensors[short] = stored
    return separated(tensors, family)


def _parameters(
    folder: Path,
    tensors: Mapping[str, Stored],
    family: Family,
    architecture: Architecture,
    task: Task,
    declared: Task | None,
    dtype: str,
) -> dict[str, np.ndarray]:
    """The parameters that the files hold, in our shapes; those of a head for another task are left out."""
    names, shapes = tensor_names(family, architecture), _shapes(architecture)
    # New are the head and the pooler, unless the file's head is for this task; BERT's pooler comes with the encoder.
    if declared is None or not task.keeps_weights_of(declared) or not _has(names, tensors, "head."):
        kept = ("pooler.",) if family.pretrained_pooler and _has(names, tensors, "pooler.") else ()
        names = {ours: name for ours, name in names.items() if not _of_head(ours) or ours.startswith(kept)}
    expected = {name: file_shape(ours, shapes[ours]) for ours, name in names.items()}
    _compare(folder, expected, tensors, family)
    found = {}
    for ours, name in names.items():
        array = tensors[name].read()
        check_finite(name, array, str(folder))
        array = array.astype(stored_type(tensors[name].dtype, dtype), copy=False)
        found[ours] = array.T.reshape(shapes[ours]) if ours.endswith(".kernel") else array.reshape(shapes[ours])
    return found


def _compare(
    folder: Path, expected: Mapping[str, tuple[int, ...]], tensors: Mapping[str, Stored], family: Family
) -> None:
    heads = [f"{module}.*" for head in family.heads.values() for module in (head.output, head.pooler) if module]
    ignored = (*family.ignored, *heads)
    complaints = {
        "missing": [f"{name} {list(shape)}" for name, shape in expected.items() if name not in tensors],
        "extra": [
            f"{name} {list(stored.shape)}"
            for name, stored in tensors.items()
            if name not in expected and not any(fnmatchcase(name, pattern) for pattern in ignored)
        ],
        "misshapen": [
            f"{name} is {list(tensors[name].shape)}, expected {list(shape)}"
            for name, shape in expected.items()
            if name in tensors and tensors[name].shape != shape
        ],
        "not of floats": [
            f"{name} is {tensors[name].dtype}"
            for name in expected
            if name in tensors and tensors[name].dtype not in FLOATS.values()
        ],
    }
    parts = [f"{complaint}: {listed(names)}" for complaint, names in complaints.items() if names]
    if parts:
        raise CheckpointError(f"the tensors of {folder} do not fit its config.json; {'; '.join(parts)}.")


def _complete(
    architecture: Architecture, found: dict[str, Any], seed: int, where: str, host: bool
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The whole tree, which empties `found`; what is not there is drawn from N(0, 0.02²), biases 0; and what to say."""
    shapes, structure = named_parameters(parameter_shapes(architecture))
    array = np.array if host else jnp.array  # a copy: jnp.asarray would share NumPy's memory
    random = np.random.RandomState(seed)
    leaves, new = [], []
    for name, shape in shapes.items():
        if name in found:
            leaves.append(array(found.pop(name)))  # one by one: memory never holds all of them twice
            continue
        new.append(name.split(".")[0])
        drawn = np.zeros(shape) if name.endswith(".bias") else random.normal(0.0, 0.02, shape)
        leaves.append(array(drawn, jnp.float32))
    warnings = ()
    if new:
        parts = " and ".join(dict.fromkeys(new))
        task = architecture.head.replace("_", " ")
        warnings = (f"{where} has no weights for the {task} {parts}: {NEW_WEIGHTS} (seed {seed}); fine-tune first.",)
    return structure.unflatten(leaves), warnings


def _with_task(
    model: Model, head: str | None, labels: Sequence[str] | int | None, problem: str | None, seed: int
) -> Model:
    """`model` with the head that the caller asks for: its own where that fits, else a new one."""
    a = model.architecture
    old = Task(a.head, a.labels, a.problem)
    where = str(model.provenance.source)
    task = choose_task(old, head, labels, problem, where)
    if task == old:
        return model
    if a.family not in FAMILIES:
        raise CheckpointError(
            f"{where} is a {a.family} model, for which new heads are known for {', '.join(FAMILIES)}."
        )
    family = FAMILIES[a.family]
    changed = replace(a, **head_fields(family, task))
    found, _ = named_parameters(model.params)
    if not task.keeps_weights_of(old):
        kept = ("pooler.",) if family.pretrained_pooler else ()
        found = {name: leaf for name, leaf in found.items() if not _of_head(name) or name.startswith(kept)}
    host = isinstance(next(iter(found.values())), np.ndarray)
    params, warnings = _complete(changed, found, seed, where, host)
    notes = replace(model.provenance, warnings=(*model.provenance.warnings, *warnings))
    return Model(changed, params, notes)


def _shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    return named_parameters(parameter_shapes(architecture))[0]


def _of_head(name: str) -> bool:
    return name.startswith(("pooler.", "head."))


def _has(names: Mapping[str, str], tensors: Mapping[str, Stored], prefix: str) -> bool:
    return any(name in tensors for ours, name in names.items() if ours.startswith(prefix))


def file_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that a parameter of ours has in a file: units flattened, kernels [out, in]."""
    if name.endswith(".bias"):
        return (prod(shape),)
    if not name.endswith(".kernel"):
        return shape
    inputs = prod(shape[:-1]) if name.endswith(".o.kernel") else shape[0]
    return (prod(shape) // inputs, inputs)
