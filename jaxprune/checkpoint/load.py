"""`load`: a checkpoint of any family, or a folder of ours, as a `Model`."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..checks import check_seed, checked
from ..doubts import tell
from ..errors import CheckpointError, SettingsError
from ..model.architecture import Architecture
from ..model.heads import head_of
from ..model.model import Model, Provenance
from ..model.shapes import parameter_shapes
from ..runtime.devices import placed
from .config import architecture_from, config_in, family_of, head_fields, padding_warnings
from .contents import (
    as_stored,
    check_fit,
    check_one_table,
    family_tensors,
    left_heads,
    task_of_head,
    tied_as_stored,
    unlike_heads,
    unread_heads,
)
from .families import Family
from .files import ADAPTER, inside
from .generation import ends_in
from .head_choice import HeadChoice, choose_head, class_of, declared_head, renaming
from .head_names import kind_of_class, named_alike
from .hub import locate
from .image_settings import IMAGE_FILES
from .known_families import family_named, hand_in
from .known_settings import check_settings, settings_as_read, without
from .labels import label_warnings
from .manifest import DTYPES, MANIFEST, check_finite, check_no_program, load_own, named_parameters, stored_type
from .read import Stored, two_formats
from .sentence import asks_for_vectors, assumed, check_widths, dense_tensors, encoder_folder, read_sentence
from .tensor_names import file_shape, named_shapes, tensor_names
from .tokenizer_files import TOKENIZER_FILES, config_for, template_files
from .uneven import file_warnings, without_layers

NEW_WEIGHTS = "new, random ones"  # in the warning that fine-tuning makes obsolete


@checked
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
    ignore_config_keys: Sequence[str] = (),
    family: Family | None = None,
) -> Model:
    """The model in `source`: a folder that jaxprune saved, a Hugging Face checkpoint's folder, or a hub id.

    `head` ("classification", "token_classification", "question_answering", "causal_lm", "masked_lm",
    "embedding", "none"), `labels`
    (names, or how many) and `problem` ("single_label", "multi_label", "regression") default to what the checkpoint
    says. Where the file's head is for another task, or missing, a new one is drawn with `seed` and a warning goes into
    the provenance; it says which head of the file is left out. A folder of sentence-transformers
    has an "embedding" head, as its modules.json says.

    Parameters are float32 JAX arrays, whatever the file has. `dtype` "bfloat16" halves their memory, "auto" takes
    bfloat16 where the file does; products are computed in float32 all the same. The file's own types are noted, and
    `save` writes in them. With `host` they are NumPy arrays, for pruning with `stream` on a device that could not hold
    them.

    A setting of config.json that is not known is an error, because it may change the result. Those that
    `ignore_config_keys` names are read as if they were not there, and a warning says so.

    `family` is the row of a family that is none of ours, `jaxprune.Family`, for a checkpoint of that model_type. From
    then on this process knows it: the model is pruned, trained, saved and exported as others are. A folder that was
    saved needs no row to be read, but one to be exported, to get a new head or a PEFT adapter: hand it in there, too.

    Doubts are warnings in the provenance, and are told by the logger "jaxprune" (`jaxprune.doubts`).

    Raises `CheckpointError` for what is missing, damaged, unknown or unsafe; `NumericalError` for NaN or Inf;
    `SettingsError` for a request that has no meaning.
    """
    check_seed(seed)
    if dtype not in DTYPES:
        raise SettingsError(f"dtype is {dtype!r}, expected one of {', '.join(DTYPES)}.")
    row = None if family is None else hand_in(family)
    folder, origin = locate(source, revision)
    if (folder / MANIFEST).exists():
        _check_tokenizer(folder)
        model = _with_task(load_own(folder, dtype, host), head, labels, problem, seed)
        model = model.replace(architecture=_ended(model.architecture, folder))
        return _told(_warned(model, without({}, ignore_config_keys, str(folder / MANIFEST))[1]))
    check_no_program(folder)
    sentence = read_sentence(folder) if asks_for_vectors(head, labels) else None
    outer, folder = folder, encoder_folder(folder)
    _check_tokenizer(folder)
    where = str(folder / "config.json")
    config = config_in(folder)
    config, ignored = without(config, ignore_config_keys, where)
    family = family_of(config if row is None else {"model_type": row.model_type, **config}, where)
    if row is not None and family.model_type != row.model_type:
        raise CheckpointError(
            f"{where} has model_type {family.model_type!r}, and the row that was handed in is of {row.model_type!r}; "
            "correct one of the two."
        )
    strange_file = file_warnings(folder, config)
    config, uneven = without_layers(settings_as_read(family, config), family, where)
    idle = check_settings(family, config, where)
    tensors = family_tensors(folder, family, config)
    declared = task_of_head(family, config, tensors, where, head)
    unlike: tuple[str, ...] = ()
    if declared is None:
        said = declared_head(family, config, where)
        declared, unlike = as_stored(said, family, tensors), unlike_heads(said, family, tensors, where)
    if sentence is not None:
        declared = HeadChoice("embedding", embedding=sentence.embedding)
    task = choose_head(declared, head, labels, problem, where)
    ordered = label_warnings(task.labels, config, where) if labels is None else ()
    config, tensors, tied = tied_as_stored(family, config, tensors, where)
    check_one_table(family, task.head, tensors, where)
    architecture = _ended(architecture_from(family, config, task, where), folder)
    if uneven is not None:
        architecture = uneven.applied(architecture, where)
    names = _names_to_read(family, config, architecture, tensors, task, declared)
    arrays, strange = _parameters(folder, tensors, family, architecture, names, dtype)
    types = {ours: tensors[name].dtype for ours, name in names.items() if name in tensors}
    if sentence is not None:
        width = architecture.output_width
        check_widths(outer, sentence.embedding, width)
        for ours, stored in dense_tensors(sentence, width).items():
            arrays[ours], types[ours] = stored.read().T.astype(stored_type(stored.dtype, dtype)), stored.dtype
    params, new = _complete(architecture, arrays, seed, str(source), host, left_heads(family, tensors, names))
    names_ignored = {"ignored_config_keys": list(ignore_config_keys)} if ignore_config_keys else {}
    # Who asks for a head knows that another one goes.
    unread = unread_heads(family, tensors, task.head, where) if head is None and labels is None else ()
    of_vectors = {} if sentence is None else {"sentence_transformers": sentence.config}
    of_vectors |= {} if outer == folder else {"source": str(outer)}
    record = {**of_vectors, **origin, "source_config": dict(config), **names_ignored}
    unsaid = assumed(task.embedding, declared and declared.embedding, str(source))
    renamed = () if new else renaming(task, declared, str(source))
    adapted = _beside(folder)
    warnings = (
        *ignored,
        *strange_file,
        *adapted,
        *two_formats(folder),
        *unlike,
        *idle,
        *ordered,
        *padding_warnings(architecture, family, config, where),
        *tied,
        *unread,
        *strange,
        *new,
        *renamed,
        *unsaid,
    )
    return _told(Model(architecture, params, Provenance(str(folder), record, warnings, types)))


def _beside(folder: Path) -> tuple[str, ...]:
    """A warning of an adapter in a model's own folder, which transformers loads with it."""
    if not (folder / ADAPTER).is_file():
        return ()
    return (
        f"{folder} holds a PEFT adapter beside the model, which transformers adds to it: the model alone is loaded; "
        "jaxprune.load_adapter merges the adapter into it.",
    )


def _check_tokenizer(folder: Path) -> None:
    """Raise `CheckpointError` for tokenizer files that lie elsewhere: they are copied when the model is saved."""
    for name in (*TOKENIZER_FILES, *IMAGE_FILES):
        inside(folder, name)
    template_files(folder)


def _told(model: Model) -> Model:
    tell(model.provenance.warnings)
    return model


def _warned(model: Model, warnings: tuple[str, ...]) -> Model:
    notes = replace(model.provenance, warnings=(*model.provenance.warnings, *warnings))
    return model.replace(provenance=notes)


def _ended(architecture: Architecture, folder: Path) -> Architecture:
    """With the end tokens of a folder's generation_config.json, which has the last word on them."""
    if not head_of(architecture).generates:
        return architecture
    return replace(architecture, end_ids=ends_in(folder, architecture.end_ids))


def _names_to_read(
    family: Family,
    config: Mapping[str, Any],
    architecture: Architecture,
    tensors: Mapping[str, Stored],
    task: HeadChoice,
    declared: HeadChoice | None,
) -> dict[str, str]:
    """Our parameters that come from the files -> their tensors. The others, a head for another task, will be drawn.

    A head that the files hold is never drawn anew, whatever config.json says, unless it is of another kind or size.
    BERT's pooler comes with the encoder.
    """
    names = tensor_names(family, architecture)
    head = {ours: name for ours, name in names.items() if _of_head(ours)}
    shapes = named_shapes(architecture)
    there = any(name in tensors for ours, name in head.items() if ours.startswith("head."))
    fits = all(name in tensors and tensors[name].shape == file_shape(ours, shapes[ours]) for ours, name in head.items())
    name = class_of(config, "config.json")
    other = name is not None and named_alike(family, kind_of_class(family, name), task.head)
    if there and ((declared is not None and task.keeps_weights_of(declared)) or (fits and not other)):
        return names
    pooler = any(name in tensors for ours, name in head.items() if ours.startswith("pooler."))
    kept = ("pooler.",) if (family.pretrained_pooler or family.shared_pooler) and pooler else ()
    return {ours: name for ours, name in names.items() if ours not in head or ours.startswith(kept)}


def _parameters(
    folder: Path,
    tensors: Mapping[str, Stored],
    family: Family,
    architecture: Architecture,
    names: Mapping[str, str],
    dtype: str,
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """The parameters that the files hold, in our shapes; and warnings of tensors that nothing reads."""
    shapes = named_shapes(architecture)
    head = family.heads.get(architecture.head) if any(ours.startswith("head.") for ours in names) else None
    expected = {name: file_shape(ours, shapes[ours]) for ours, name in names.items()}
    warnings = check_fit(folder, expected, tensors, family, head)
    arrays = {}
    for ours, name in names.items():
        array = tensors[name].read()
        check_finite(name, array, str(folder))
        array = array.astype(stored_type(tensors[name].dtype, dtype), copy=False)
        arrays[ours] = array.T.reshape(shapes[ours]) if ours.endswith(".kernel") else array.reshape(shapes[ours])
    return arrays, warnings


def _complete(
    architecture: Architecture, arrays: dict[str, Any], seed: int, where: str, host: bool, left: Sequence[str] = ()
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The whole tree, which empties `arrays`; what is not there is drawn from N(0, 0.02²), biases 0; and what to say.

    `left` are modules of another head that the source has.
    """
    shapes, structure = named_parameters(parameter_shapes(architecture))
    array = np.array if host else placed  # copies: a file's own memory must not stay in use
    random = np.random.RandomState(seed)
    leaves, new = [], []
    for name, shape in shapes.items():
        if name in arrays:
            leaves.append(array(arrays.pop(name)))  # one by one: memory never holds all of them twice
            continue
        new.append(name.split(".")[0])
        drawn = np.zeros(shape) if name.endswith(".bias") else random.normal(0.0, 0.02, shape)
        leaves.append(array(drawn.astype(np.float32)))
    warnings = ()
    if new:
        parts = " and ".join(dict.fromkeys(new))
        task = architecture.head.replace("_", " ")
        other = f"; its {' and '.join(left)} is left out" if left else ""
        warnings = (
            f"{where} has no weights for the {task} {parts}: {NEW_WEIGHTS} (seed {seed}); fine-tune first{other}.",
        )
    return structure.unflatten(leaves), warnings


def _with_task(
    model: Model, head: str | None, labels: Sequence[str] | int | None, problem: str | None, seed: int
) -> Model:
    """`model` with the head that the caller asks for: its own where that fits, else a new one."""
    a = model.architecture
    old = HeadChoice(a.head, a.labels, a.problem, a.embedding)
    where = str(model.provenance.source)
    task = choose_head(old, head, labels, problem, where)
    if task == old:
        return model
    family = family_named(a.family)
    changed = replace(a, **head_fields(family, config_for(model), task, a.vocab, where))
    if not head_of(changed).generates:
        changed = replace(changed, tied=head_of(changed).language is not None, end_ids=())
    arrays, left = named_parameters(model.params)[0], []
    if not task.keeps_weights_of(old):
        kept = ("pooler.",) if family.pretrained_pooler or family.shared_pooler else ()
        left = [f"{a.head.replace('_', ' ')} head"] if "head.kernel" in arrays else []
        arrays = {name: leaf for name, leaf in arrays.items() if not _of_head(name) or name.startswith(kept)}
    host = isinstance(next(iter(arrays.values())), np.ndarray)
    params, warnings = _complete(changed, arrays, seed, where, host, left)
    said = (
        *warnings,
        *(() if warnings else renaming(task, old, where)),
        *assumed(task.embedding, old.embedding, where),
        *padding_warnings(changed, family, config_for(model), where),
    )
    return _warned(Model(changed, params, model.provenance), said)


def _of_head(name: str) -> bool:
    return name.startswith(("pooler.", "head."))
