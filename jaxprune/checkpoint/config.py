"""From `config.json` to an `Architecture`: what is known is read, what would change the result is refused."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from ..errors import CheckpointError
from ..model.architecture import LAST_LAYERS, Architecture, LayerSizes
from ..model.heads import HEADS
from .disentangled import disentangled_fields
from .families import ACTIVATION_NAMES, Family, HeadModules
from .files import ADAPTER, inside, read_json
from .generation import end_ids
from .head_choice import HeadChoice, class_of, declared_head
from .head_names import HEAD_NAMES, WITH_TEACHER, kind_of_class
from .image_settings import patches_of
from .known_families import known_families
from .known_settings import check_settings
from .sliding import attention_fields


def config_in(folder: Path) -> dict[str, Any]:
    """What config.json says. Raises `CheckpointError`, which points at what holds a model where that is elsewhere."""
    path = inside(folder, "config.json")
    config = read_json(path, "give a checkpoint's folder") if path.exists() else {}
    if "model_type" not in config and "architectures" not in config:
        # Old folders of sentence-transformers: 0_Transformer, 0_BERT, … with the model, and 1_Pooling.
        inner = sorted(entry.parent.name for entry in folder.glob("0_*/config.json"))
        if inner:
            raise CheckpointError(
                f"{folder} holds no model itself, but a folder of one (sentence-transformers); give "
                f"{folder / inner[0]}."
            )
    adapter = folder / ADAPTER
    if not config and adapter.exists():
        base = read_json(adapter, "copy it anew").get("base_model_name_or_path")
        raise CheckpointError(
            f"{folder} holds a PEFT adapter and no model; load its base model{f' ({base})' if base else ''}, and merge "
            "it into that with jaxprune.load_adapter."
        )
    return config or read_json(path, "give a checkpoint's folder")


def family_of(config: Mapping[str, Any], where: str) -> Family:
    """The family that `config` names, or whose class it names where it has no model_type.

    Raises `CheckpointError` that lists the supported ones for any other.
    """
    model_type, rows = config.get("model_type"), known_families()
    if model_type is None:
        name = class_of(config, where)
        named = [row for row in rows.values() if name is not None and kind_of_class(row, name) != "unknown"]
        if len(named) == 1:
            return named[0].as_said(config)
        raise CheckpointError(
            f'{where} has no model_type, and no class that says it; add "model_type": and one of '
            f"{', '.join(rows)}, if the model is of that family."
        )
    if not isinstance(model_type, str) or model_type not in rows:
        raise CheckpointError(
            f"{where} has model_type {str(model_type)[:60]!r}, supported are {', '.join(rows)}; another family needs a "
            "row of its own, handed to jaxprune.load (family=…)."
        )
    return rows[model_type].as_said(config)


def architecture_from(family: Family, config: Mapping[str, Any], task: HeadChoice, where: str) -> Architecture:
    """The architecture that `config` describes, with the head that `task` needs."""
    check_settings(family, config, where)

    def value(name: str, kind: type, low: int) -> Any:
        if name not in family.keys:
            return None
        key = family.keys[name]
        given = config.get(key)
        given = family.defaults.get(key) if given is None else given
        good = isinstance(given, (int, float) if kind is float else kind) and not isinstance(given, bool)
        if not good or (isinstance(given, (int, float)) and given < low):
            wanted = "a name" if kind is str else f"{'a number' if kind is float else 'an integer'} of at least {low}"
            raise CheckpointError(f"{where}: {key} is {str(config.get(key))[:60]!r}, expected {wanted}.")
        return given

    def switch(name: str) -> bool:
        key = family.keys[name]
        given = config.get(key)
        given = family.defaults[key] if given is None else given
        if not isinstance(given, bool):
            raise CheckpointError(f"{where}: {key} is {str(given)[:60]!r}, expected true or false.")
        return given

    if not HEAD_NAMES[task.head].bare and task.head not in family.heads:
        raise CheckpointError(
            f"{where}: a {family.model_type} model has no {task.head} head here, only {', '.join(family.heads)}."
        )
    hidden, heads = value("hidden", int, 1), value("heads", int, 1)
    groups, width = heads, None
    key = family.keys.get("groups", "")
    if config.get(key) is not None or key in family.defaults:
        groups = value("groups", int, 1)
    if "head_width" in family.keys and (config.get("head_dim") or family.defaults.get("head_dim")):
        width = value("head_width", int, 1)
    if width is None and hidden % heads:
        raise CheckpointError(f"{where}: {heads} heads do not divide the hidden size {hidden}.")
    if heads % groups:
        raise CheckpointError(f"{where}: {groups} key-value groups do not divide {heads} heads.")
    width = hidden // heads if width is None else width
    activation = value("activation", str, 0)
    activation = family.activations.get(activation, activation)
    if activation not in ACTIVATION_NAMES:
        known = ", ".join(ACTIVATION_NAMES)
        raise CheckpointError(f"{where}: activation {activation!r} is not supported, only {known}.")
    patches = patches_of(family, config, where) if family.reads_images else None
    rows, pad = value("positions", int, 1) if patches is None else patches.tokens, value("pad_id", int, 0) or 0
    by_id = family.switches.get("positions_count") == "tokens"  # then the table's rows include those before position 0
    if by_id and rows <= pad + 1:
        raise CheckpointError(f"{where}: {family.keys['positions']} is {rows}, expected more than {pad + 1}.")
    derived = family.neurons_per_hidden is not None and config.get(family.keys["neurons"]) is None
    neurons = hidden * cast(int, family.neurons_per_hidden) if derived else value("neurons", int, 1)
    layer = LayerSizes(groups=groups, queries=heads // groups, neurons=neurons)
    optional = {
        name: value(name, kind, 0) for name, kind in (("token_types", int), ("norm_eps", float), ("dropout", float))
    }
    fields: dict[str, Any] = {
        "family": family.model_type,
        "vocab": value("vocab", int, 1) if patches is None else patches.specials,
        "hidden": hidden,
        "head_width": width,
        "layers": (layer,) * value("layers", int, 1),
        "max_positions": rows - pad - 1 if by_id else rows,
        "position_offset": pad + 1 if by_id else 0,
        "pad_id": pad,
        "activation": ACTIVATION_NAMES[activation],
        **{name: number for name, number in optional.items() if number is not None},
        **family.switches,
    }
    if patches is not None:
        fields["patches"] = patches
        if task.embedding is not None:
            raise CheckpointError(
                f"{where}: a {family.model_type} model reads images, of which no vectors are made here; load it with "
                "another head."
            )
    if "input_bias" in family.keys:
        fields["attention_bias"] = switch("input_bias")
    if "attention_bias" in family.keys:
        fields["attention_bias"] = fields["output_bias"] = switch("attention_bias")
    if "feed_forward_bias" in family.keys:
        fields["feed_forward_bias"] = fields["down_bias"] = switch("feed_forward_bias")
    if "pre_norm" in family.keys:
        fields["norm_position"] = "pre" if switch("pre_norm") else "post"
    if "norm_bias" in family.keys:
        fields["norm_bias"] = switch("norm_bias")
    narrow = family.keys.get("embed_width", "")
    if (family.defaults.get(narrow) if config.get(narrow) is None else config[narrow]) not in (None, hidden):
        fields["embed_width"] = value("embed_width", int, 1)
    if "both_ways" in family.keys and switch("both_ways"):
        fields["causal"] = False
        if HEADS[task.head, task.problem].language is not None:
            key = family.keys["both_ways"]
            raise CheckpointError(
                f"{where}: {key} is true, and a language model that reads both ways says nothing; take another head."
            )
    on = switch("window_on") if "window_on" in family.keys else True
    first = value("window_from", int, 0) or 0
    fields |= attention_fields(family, config, where, fields, rows, on, first)
    if "distances_on" in family.keys:
        fields |= disentangled_fields(family, config, where, fields)
    for name in ("score_cap", "logit_cap"):
        key = family.keys.get(name)
        if key is not None and config.get(key, family.defaults.get(key)) is not None:  # null: there is none
            fields[name] = float(value(name, float, 1))
    if "attention_scalar" in family.keys:  # scores are divided by its root
        fields["attention_scale"] = value("attention_scalar", float, 1) ** -0.5
    row = HEADS[task.head, task.problem]
    if row.generates:
        fields |= {"tied": switch("tied"), "end_ids": end_ids(config, where)}
    elif row.language is not None:
        if config.get("tie_word_embeddings") is False:
            raise CheckpointError(
                f"{where}: tie_word_embeddings is false, and a masked language model's head is the token table here; "
                "load it with head='none', or take a checkpoint that ties them."
            )
        fields["tied"] = True
    return Architecture(**fields, **head_fields(family, config, task, fields["vocab"], where))


def head_fields(family: Family, config: Mapping[str, Any], task: HeadChoice, vocab: int, where: str) -> dict[str, Any]:
    """The fields of `Architecture` that a task sets, but for those of a language model; `vocab`: how many tokens it has
    without the task.
    """
    head = family.heads.get(task.head, HeadModules(output=""))
    before = head.pooler or head.transform
    names = () if before is None else ("pool", "pooler_bias", *(["pooler"] if head.pooler else []))
    return {
        "pool": head.token,
        "pool_tokens": _pool_tokens(family, config, task, where),
        "pool_pad": _padding(family, config, vocab, where) if head.token == "last" else None,
        "pooler": head.activation,
        "pooler_norm": head.pooler_norm is not None,
        "head": task.head,
        "head_bias": head.bias,
        "transform": head.transform_activation if LAST_LAYERS[task.head].transformed else "none",
        "labels": task.labels,
        "problem": task.problem,
        "embedding": task.embedding,
        **_pooled(family, config, names, where),
    }


def _pool_tokens(family: Family, config: Mapping[str, Any], task: HeadChoice, where: str) -> int:
    """How many tokens a head reads side by side: of DeiT's class with a teacher two."""
    taught = (class_of(config, where) or "").endswith(WITH_TEACHER) and task.head in family.heads
    return len(family.averaged) if taught and family.averaged else 1


def _pooled(family: Family, config: Mapping[str, Any], names: Sequence[str], where: str) -> dict[str, Any]:
    """What config.json says of what lies before a head: how it pools, a bias, an activation."""
    said: dict[str, Any] = {}
    meanings: dict[str, dict[Any, Any]] = {
        "pool": {"cls": "first", "mean": "mean"},
        "pooler_bias": {True: True, False: False},
        "pooler": {"gelu": "gelu", "tanh": "tanh", "relu": "relu"},
    }
    for name in names:
        if name not in family.keys:
            continue
        known = meanings[name]
        key = family.keys[name]
        given = family.defaults[key] if config.get(key) is None else config[key]
        if not isinstance(given, str | bool) or given not in known:
            expected = ", ".join(map(str, known))
            raise CheckpointError(f"{where}: {key} is {str(given)[:60]!r}, expected one of {expected}.")
        said[name] = known[given]
    return said


def _padding(family: Family, config: Mapping[str, Any], vocab: int, where: str) -> int | None:
    """The id that a text's last token has not. None: config.json names none, or one that no token has (-1, others)."""
    given = _named_padding(family, config, where)
    return given if given is not None and 0 <= given < vocab else None


def _named_padding(family: Family, config: Mapping[str, Any], where: str) -> int | None:
    key = family.keys.get("pad_id", "pad_token_id")
    given = config[key] if key in config else family.defaults.get(key)
    if given is not None and (not isinstance(given, int) or isinstance(given, bool)):
        raise CheckpointError(f"{where}: {key} is {str(given)[:60]!r}, expected an integer, or null for none.")
    return given


def padding_warnings(
    architecture: Architecture, family: Family, config: Mapping[str, Any], where: str
) -> tuple[str, ...]:
    """A warning where a head reads a text's last token, and padding's id is beyond the vocabulary.

    transformers fails on such a file, or reads the last slot, padding or not; a negative id means that there is none.
    """
    given = _named_padding(family, config, where) if architecture.pool == "last" else None
    if given is None or given < architecture.vocab:
        return ()
    return (
        f"{where}: padding has the id {given}, which is none of the {architecture.vocab} tokens: the mask alone tells "
        "it; name the id of the token that pads.",
    )


def as_config(family: Family, config: Mapping[str, Any], where: str) -> Architecture:
    """The architecture of the model that `config` describes, with the head it says; without one where we have none."""
    return architecture_from(family, config, declared_head(family, config, where) or HeadChoice("none"), where)
