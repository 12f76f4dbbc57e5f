"""Folders of sentence-transformers, read: modules.json says what is made of an encoder's hidden states.

Read is what that package computes of texts: a Transformer, one Pooling, any number of Dense and a Normalize, and the
settings of what a text is before it is tokens. What would change an embedding and is not understood is an error.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np

from ..errors import CheckpointError, SettingsError
from ..model.architecture import LAST_LAYERS
from ..model.embedding import DenseStep, Embedding, PoolingMode
from .files import inside, read_json, read_json_list
from .manifest import check_finite
from .read import Stored, read_tensors

MODULES = "modules.json"
SENTENCE_CONFIG = "config_sentence_transformers.json"
# Of a Transformer's settings; the first that a folder has is read.
TRANSFORMER_CONFIGS = tuple(
    f"sentence_{name}_config.json"
    for name in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
# Of a Pooling's config.json, as it was written until version 5; in the order in which vectors stand behind each other.
OLD_MODES: Mapping[str, PoolingMode] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
ACTIVATION_CLASSES = {
    "torch.nn.modules.linear.Identity": "identity",
    "torch.nn.modules.activation.Tanh": "tanh",
    "torch.nn.modules.activation.ReLU": "relu",
    "torch.nn.modules.activation.GELU": "gelu",
    "torch.nn.modules.activation.SiLU": "silu",
    "torch.nn.modules.activation.Sigmoid": "sigmoid",
}
_READ = ("Transformer", "Pooling", "Dense", "Normalize")
_OF_MODEL = ("__version__", "model_type", "prompts", "default_prompt_name", "similarity_fn_name")
_OTHER_MODELS = ("CrossEncoder",)  # whose modules.json says what config.json says too
# Settings that change nothing where they are empty, or have one of these values.
_EMPTY = dict.fromkeys(
    "model_args tokenizer_args config_args model_kwargs processor_kwargs config_kwargs processing_kwargs query_length "
    "document_length query_expansion use_residual".split(),
    (),
)
_OF_TRANSFORMER: Mapping[str, tuple[Any, ...]] = {
    **_EMPTY,
    "transformer_task": ("feature-extraction",),
    "modality_config": ({"text": {"method": "forward", "method_output_name": "last_hidden_state"}},),
    "module_output_name": ("token_embeddings",),
    "unpad_inputs": (True,),
}
_OF_VECTORS: Mapping[str, tuple[Any, ...]] = {
    **_EMPTY,
    "module_input_name": ("sentence_embedding",),
    "module_output_name": ("sentence_embedding",),
}


class Module(NamedTuple):
    """One module of modules.json."""

    kind: str  # the last part of its class
    folder: Path  # of its files


class Sentence(NamedTuple):
    """What a folder of sentence-transformers says beside the encoder."""

    embedding: Embedding
    dense: tuple[Path, ...]  # where the weights of the dense layers are
    config: dict[str, Any]  # of the whole model: config_sentence_transformers.json


def encoder_folder(folder: Path) -> Path:
    """Where the encoder lies: the folder itself, or what modules.json names. Raises `CheckpointError`."""
    modules = _modules(folder) if (folder / MODULES).exists() else []
    return modules[0].folder if modules and modules[0].kind == "Transformer" else folder


def module_folders(folder: Path) -> list[str]:
    """The folders in which modules.json has a model's other modules; none without that file. Raises as it is read."""
    modules = _modules(folder) if (folder / MODULES).exists() else []
    return [module.folder.relative_to(folder).as_posix() for module in modules if module.folder != folder]


def read_sentence(folder: Path) -> Sentence | None:
    """What modules.json makes of hidden states; None without that file, and where it is not of an embedding model.

    Raises `CheckpointError` for modules and settings that are not understood.
    """
    if not (folder / MODULES).exists():
        return None
    there = inside(folder, SENTENCE_CONFIG).exists()
    config = read_json(folder / SENTENCE_CONFIG, "copy it anew") if there else {}
    if config.get("model_type") in _OTHER_MODELS:
        return None
    _check_known(config, _OF_MODEL, {}, folder / SENTENCE_CONFIG)
    where, modules = folder / MODULES, _modules(folder)
    for module in modules:
        if module.kind not in _READ:
            raise CheckpointError(
                f"{where} has a module of the class {module.kind}, which is not read, only {', '.join(_READ)}; "
                "head='none' loads the encoder alone."
            )
    kinds = [module.kind for module in modules]
    shape = ["Transformer", "Pooling", *["Dense"] * kinds.count("Dense"), *["Normalize"] * ("Normalize" in kinds)]
    if kinds != shape:
        raise CheckpointError(
            f"{where} names {', '.join(kinds) or 'no modules'}, expected a Transformer and one Pooling, behind them "
            "Dense modules and a Normalize, or none of these; head='none' loads the encoder alone."
        )
    dense = tuple(module.folder for module in modules if module.kind == "Dense")
    for module in modules:
        if module.kind == "Normalize" and (module.folder / "config.json").is_file():
            where_it_is = module.folder / "config.json"
            _check_known(read_json(where_it_is, ""), (), _OF_VECTORS, where_it_is)
    try:
        embedding = Embedding(
            **_pooling(modules[1].folder / "config.json")[1],
            dense=tuple(_dense(path / "config.json")[1] for path in dense),
            normalize="Normalize" in kinds,
            **_texts(modules[0].folder),
            **_prompts(config, folder / SENTENCE_CONFIG),
        )
    except SettingsError as error:
        raise CheckpointError(f"{where}: {error}") from error
    return Sentence(embedding, dense, config)


def check_widths(folder: Path, embedding: Embedding, hidden: int) -> None:
    """Raise `CheckpointError` where pooling and dense layers do not fit hidden states of that width, or each other."""
    modules = {kind: [module.folder for module in _modules(folder) if module.kind == kind] for kind in _READ}
    said = _pooling(modules["Pooling"][0] / "config.json")[0]
    if said not in (None, hidden):
        raise CheckpointError(
            f"{modules['Pooling'][0] / 'config.json'} pools vectors of {said} numbers, the model's have {hidden}; copy "
            "it anew."
        )
    for path, inputs in zip(modules["Dense"], embedding.widths(hidden)[:-1], strict=True):
        reads = _dense(path / "config.json")[0]
        if reads != inputs:
            raise CheckpointError(
                f"{path / 'config.json'}: the dense layer reads {reads} numbers, what comes before it gives {inputs}; "
                "copy it anew."
            )


def dense_tensors(sentence: Sentence, hidden: int) -> dict[str, Stored]:
    """The tensors of the dense layers by our names ("head.0.kernel"), as they lie in files: a weight is [out, in].

    Raises `CheckpointError` for such as are missing or misshapen, `NumericalError` for NaN and Inf.
    """
    tensors: dict[str, Stored] = {}
    widths, steps = sentence.embedding.widths(hidden), sentence.embedding.dense
    for number, (path, step, inputs) in enumerate(zip(sentence.dense, steps, widths[:-1], strict=True)):
        stored = read_tensors(path)
        expected = {"linear.weight": (step.outputs, inputs)} | ({"linear.bias": (step.outputs,)} if step.bias else {})
        shapes = {name: entry.shape for name, entry in stored.items()}
        if shapes != expected:
            raise CheckpointError(f"the tensors of {path} are {shapes}, its config.json says {expected}; copy it anew.")
        for name, ours in (("linear.weight", "kernel"), ("linear.bias", "bias")):
            if name in stored:
                tensors[f"head.{number}.{ours}"] = stored[name]
                check_finite(name, np.asarray(stored[name].read()), str(path))
    return tensors


def asks_for_vectors(head: str | None, labels: Any) -> bool:
    """Whether modules.json is to be followed: nobody asks for another head than it says."""
    return labels is None and (head is None or any(kind == head and row.pooled for kind, row in LAST_LAYERS.items()))


def assumed(chosen: Embedding | None, declared: Embedding | None, where: str) -> tuple[str, ...]:
    """A warning where nothing says how texts are pooled."""
    if chosen is None or declared is not None:
        return ()
    return (f"{where} has no {MODULES}: its tokens' states are averaged, as sentence-transformers does it then.",)


# --- the files


def _modules(folder: Path) -> list[Module]:
    """The modules in their order. Raises `CheckpointError` for what are none, and for paths out of the folder."""
    where = inside(folder, MODULES)
    modules = []
    for number, entry in enumerate(read_json_list(where, "copy it anew")):
        kind, path = (entry.get(name) for name in ("type", "path")) if isinstance(entry, dict) else (None, None)
        if not isinstance(kind, str) or not isinstance(path, str):
            raise CheckpointError(f"{where}: module {number} has no type and path; copy it anew.")
        ours = kind.startswith("sentence_transformers.")
        place = inside(folder, path.rstrip("/")) if path.rstrip("/") else folder
        modules.append(Module(kind.rpartition(".")[2] if ours else kind, place))
    return modules


def _check_known(config: Mapping[str, Any], read: Iterable[str], neutral: Mapping[str, tuple[Any, ...]], where: Path):
    """Raise `CheckpointError` for a setting that is neither `read` nor `neutral`: it may change something."""
    for name, value in config.items():
        if name not in read and value is not None and not (name in neutral and (not value or value in neutral[name])):
            raise CheckpointError(
                f"{where}: {name} is {str(value)[:60]!r}, which may change embeddings and is not read; head='none' "
                "loads the encoder alone."
            )


def _pooling(where: Path) -> tuple[int | None, dict[str, Any]]:
    """The width of what is pooled, and the fields of `Embedding` that a Pooling's settings say."""
    config = read_json(where, "copy it anew")
    known = {*OLD_MODES, "word_embedding_dimension", "embedding_dimension", "pooling_mode", "include_prompt"}
    _check_known(config, known, {}, where)
    old = tuple(mode for key, mode in OLD_MODES.items() if config.get(key))
    new = config.get("pooling_mode")
    new = (new,) if isinstance(new, str) else new if new is None else tuple(map(str, new))
    if new is not None and any(key in config for key in OLD_MODES) and set(old) != set(new):
        raise CheckpointError(
            f"{where}: pooling_mode is {', '.join(new)}, other entries say {', '.join(old) or 'none'}; correct one of "
            "the two."
        )
    modes, known_modes = old if new is None else new, get_args(PoolingMode)
    if not modes or not set(modes) <= {*known_modes}:
        raise CheckpointError(
            f"{where}: pooling is {', '.join(modes) or 'of no mode'}, expected {' or '.join(known_modes)}."
        )
    width = config.get("word_embedding_dimension", config.get("embedding_dimension"))
    return width, {"pooling": modes, "include_prompt": _flag(config, "include_prompt", True, where)}


def _dense(where: Path) -> tuple[Any, DenseStep]:
    """How many numbers a Dense reads, and what it is."""
    config = read_json(where, "copy it anew")
    _check_known(config, ("in_features", "out_features", "bias", "activation_function"), _OF_VECTORS, where)
    name, outputs = config.get("activation_function", "torch.nn.modules.activation.Tanh"), config.get("out_features")
    if name not in ACTIVATION_CLASSES:
        raise CheckpointError(
            f"{where}: the activation {str(name)[:60]} is not supported, only {', '.join(ACTIVATION_CLASSES)}."
        )
    if not isinstance(outputs, int) or isinstance(outputs, bool) or outputs < 1:
        raise CheckpointError(f"{where}: out_features is {str(outputs)[:60]!r}, expected an integer of at least 1.")
    step = DenseStep(outputs=outputs, bias=_flag(config, "bias", True, where), activation=ACTIVATION_CLASSES[name])  # type: ignore[arg-type]
    return config.get("in_features"), step


def _texts(folder: Path) -> dict[str, Any]:
    """The fields of `Embedding` that a Transformer's settings say."""
    name = next((name for name in TRANSFORMER_CONFIGS if inside(folder, name).is_file()), None)
    if name is None:
        return {}
    where = folder / name
    config = read_json(where, "copy it anew")
    _check_known(config, ("max_seq_length", "do_lower_case"), _OF_TRANSFORMER, where)
    most = config.get("max_seq_length")
    if most is not None and (not isinstance(most, int) or isinstance(most, bool) or most < 1):
        raise CheckpointError(f"{where}: max_seq_length is {str(most)[:60]!r}, expected an integer of at least 1.")
    return {"max_tokens": most, "lower_case": _flag(config, "do_lower_case", False, where)}


def _prompts(config: Mapping[str, Any], where: Path) -> dict[str, Any]:
    """The fields of `Embedding` that the settings of the whole model say; a prompt of null is an empty one."""
    prompts, default = config.get("prompts") or {}, config.get("default_prompt_name")
    if not isinstance(prompts, dict) or not all(isinstance(text, str | None) for text in prompts.values()):
        raise CheckpointError(f"{where}: prompts is {str(prompts)[:60]!r}, expected texts by name.")
    if default is not None and default not in prompts:
        raise CheckpointError(
            f"{where}: default_prompt_name is {str(default)[:60]!r}, which is none of {', '.join(prompts) or 'no'} "
            "prompts; correct it."
        )
    return {"prompts": tuple((name, text or "") for name, text in prompts.items()), "default_prompt": default}


def _flag(config: Mapping[str, Any], name: str, default: bool, where: Path) -> bool:
    value = config.get(name, default)
    if not isinstance(value, bool):
        raise CheckpointError(f"{where}: {name} is {str(value)[:60]!r}, expected true or false.")
    return value
