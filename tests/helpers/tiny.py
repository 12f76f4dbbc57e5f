"""Tiny random models and checkpoints of every family, for any test; no torch, no download.

config = tiny.config("bert", head="classification")
folder = tiny.write(tmp_path / "model", config, tiny.tensors(config), form="msgpack")
"""

import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

from jaxprune.checkpoint.config import architecture_from
from jaxprune.checkpoint.families import FAMILIES
from jaxprune.checkpoint.head_choice import choose_head, declared_head
from jaxprune.checkpoint.layout import fused
from jaxprune.checkpoint.read import Stored
from jaxprune.checkpoint.tensor_names import tensor_names
from jaxprune.model import Architecture, Model, parameter_shapes

FORMS = ("safetensors", "sharded", "msgpack", "bin", "sharded bin", "legacy bin")
CLASSES = {
    "classification": "ForSequenceClassification",
    "token_classification": "ForTokenClassification",
    "question_answering": "ForQuestionAnswering",
    "causal_lm": "ForCausalLM",
    "masked_lm": "ForMaskedLM",
    "none": "Model",
}
TEXT_FAMILIES = {name: row for name, row in FAMILIES.items() if not row.reads_images}
# What another family computes under other names, or a part of it: one head is enough.
ALIKE = ("xlm-roberta", "camembert", "gemma", "gemma2", "smollm3", "olmo2", "phi3")
MASKED = ("bert", "electra")  # with that head: the others differ from one of these in names of tensors only
PAIRS = [
    (name, head)
    for name, row in TEXT_FAMILIES.items()
    for head in (*row.heads, "none")
    if name not in ALIKE or head == next(iter(row.heads))
    if head != "masked_lm" or name in MASKED
]
_TABLES = ("wte", "wpe", "embed_tokens", "embed_positions")
_SIZES = {
    "groups": 3,
    "head_width": 4,
    "vocab": 30,
    "hidden": 12,
    "layers": 2,
    "heads": 3,
    "neurons": 10,
    "positions": 20,
    "token_types": 2,
    "image": 6,
    "patch": 2,
    "channels": 3,
}
_OWN_SIZES = {
    "electra": {"embedding_size": 7},
    "gemma2": {"sliding_window": 4, "query_pre_attn_scalar": 3, "attn_logit_softcapping": 2.0},
    "gemma3_text": {"sliding_window": 4, "query_pre_attn_scalar": 3, "sliding_window_pattern": 2},
    "smollm3": {"no_rope_layer_interval": 2, "pad_token_id": 0},
    "phi3": {"partial_rotary_factor": 0.5, "sliding_window": 4, "pad_token_id": 0},
    "deberta-v2": {
        **{
            "relative_attention": True,
            "pos_att_type": ["p2c", "c2p"],
            "position_buckets": 4,
            "norm_rel_ebd": "layer_norm",
        },
        **{"position_biased_input": False, "type_vocab_size": 0, "embedding_size": 7},
    },
    "modernbert": {"local_attention": 6, "classifier_pooling": "mean", "pad_token_id": 0},
}


def config(family: str, head: str | None = None, **changes: Any) -> dict[str, Any]:
    """What config.json says of a model of two layers, three heads and ten neurons; three labels.

    `head` is the family's first by default: classification for encoders, a language model for decoders.
    """
    row = FAMILIES[family]
    head = next(iter(row.heads)) if head is None else head
    sizes = {key: _SIZES[name] for name, key in row.keys.items() if name in _SIZES}
    labels = {"id2label": {"0": "a", "1": "b", "2": "c"}} if head in ("classification", "token_classification") else {}
    return {
        "model_type": family,
        "architectures": [
            (head == "causal_lm" and row.language_classes or row.classes)
            + row.endings.get(CLASSES[head], CLASSES[head])
        ],
        **sizes,
        **_OWN_SIZES.get(family, {}),
        **labels,
        **changes,
    }


def architecture(settings: dict[str, Any]) -> Architecture:
    """The architecture that a config.json describes."""
    family = FAMILIES[settings["model_type"]]
    task = choose_head(declared_head(family, settings, "tiny"), None, None, None, "tiny")
    return architecture_from(family, settings, task, "tiny")


def random_model(settings: dict[str, Any], seed: int = 0) -> Model:
    """A model of that architecture, all parameters from N(0, 0.4²)."""
    random = np.random.RandomState(seed)
    draw = lambda shape: jnp.array(random.normal(0, 0.4, shape), jnp.float32)  # noqa: E731
    shapes = parameter_shapes(architecture(settings))
    params = jax.tree.map(draw, shapes, is_leaf=lambda node: isinstance(node, tuple))
    for layer in params["layers"]:
        for name in ("relative", "distances"):  # one table for all layers
            if name in layer["attention"]:
                layer["attention"][name] = dict(params["layers"][0]["attention"][name])
    return Model(architecture(settings), params)


def tensors(settings: dict[str, Any], seed: int = 0, prefix: bool = True) -> dict[str, np.ndarray]:
    """The parameters of `random_model` under their names in a PyTorch file, dense weights [out, in]."""
    model = random_model(settings, seed)
    family = FAMILIES[settings["model_type"]]
    flat, _ = jax.tree_util.tree_flatten_with_path(model.params)
    leaves = {jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(leaf) for path, leaf in flat}
    out = {}
    for ours, name in tensor_names(family, model.architecture).items():
        leaf = leaves[ours]
        if ours.endswith(".kernel"):
            outputs = leaf.shape[-1] if ours.endswith(".o.kernel") else None
            leaf = (leaf.reshape(-1, outputs) if outputs else leaf.reshape(leaf.shape[0], -1)).T
        elif ours.endswith((".bias", ".scale")):
            leaf = leaf.reshape(-1)
        out[name] = leaf
    outside = tuple(f"{module}." for head in family.heads.values() for module in head.modules)
    if family.pretrained_pooler:
        outside = tuple(module for module in outside if not module.startswith("pooler."))
    held = {name: Stored(leaf.shape, "float32", lambda leaf=leaf: leaf) for name, leaf in out.items()}
    return {
        ("" if name.startswith(outside) or not prefix else family.prefix) + name: np.array(stored.read(), order="C")
        for name, stored in fused(held, family, model.architecture).items()
    }


def write(folder: Path, settings: dict[str, Any], named: dict[str, np.ndarray], form: str = "safetensors") -> Path:
    """A checkpoint's folder in one of `FORMS`."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(settings))
    if form == "safetensors":
        save_file(dict(named), folder / "model.safetensors")
    elif form == "msgpack":
        from flax.serialization import msgpack_serialize

        (folder / "flax_model.msgpack").write_bytes(msgpack_serialize(flax_tree(named)))
    elif form == "bin":
        write_bin(folder / "pytorch_model.bin", named)
    elif form == "legacy bin":
        write_legacy_bin(folder / "pytorch_model.bin", named)
    else:
        stem, suffix = ("model", "safetensors") if form == "sharded" else ("pytorch_model", "bin")
        names = sorted(named)
        places = {name: f"{stem}-0000{1 + 2 * at // len(names)}-of-00002.{suffix}" for at, name in enumerate(names)}
        for file in set(places.values()):
            part = {name: named[name] for name in names if places[name] == file}
            save_file(part, folder / file) if suffix == "safetensors" else write_bin(folder / file, part)
        name = "model.safetensors.index.json" if form == "sharded" else "pytorch_model.bin.index.json"
        (folder / name).write_text(json.dumps({"metadata": {"total_size": 0}, "weight_map": places}))
    return folder


def flax_tree(named: dict[str, np.ndarray]) -> dict[str, Any]:
    """The tree that Flax models of transformers 4 saved: kernels [in, out], scales, embeddings."""
    tree: dict[str, Any] = {}
    for name, array in named.items():
        *modules, leaf = name.split(".")
        if leaf == "weight" and array.ndim == 1:
            leaf = "scale"
        elif leaf == "weight" and (modules[-1].endswith("_embeddings") or modules[-1] in _TABLES):
            leaf = "embedding"
        elif leaf == "weight":
            turned = array.T if array.ndim != 4 else array.transpose(2, 3, 1, 0)  # of a convolution
            leaf, array = "kernel", np.ascontiguousarray(turned)
        node = tree
        for module in modules:
            node = node.setdefault(module, {})
        node[leaf] = array
    return tree


# --- a .bin as torch.save writes it

_STORAGES = {
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
    "float64": "DoubleStorage",
    "int64": "LongStorage",
}


def write_bin(path: Path, named: dict[str, np.ndarray]) -> None:
    """A zip with a pickle of strided views, one storage a tensor. Transposed arrays stay transposed views."""
    items, data = [], {}
    for number, (name, array) in enumerate(named.items()):
        strides = tuple(stride // array.itemsize for stride in array.strides)
        storage = np.ascontiguousarray(array.T if array.flags.f_contiguous else array)
        data[str(number)] = storage.tobytes()
        items.append(_plain(name) + tensor(str(number), array.dtype.name, array.size, 0, array.shape, strides))
    write_zip(path, state(b"".join(items)), data)


def write_legacy_bin(path: Path, named: dict[str, np.ndarray]) -> None:
    """A file as torch.save wrote it before PyTorch 1.6: pickles in a row, then the storages, one a tensor."""
    items = [
        _plain(name)
        + tensor(str(number), array.dtype.name, array.size, 0, array.shape, _strides(array.shape), legacy=True)
        for number, (name, array) in enumerate(named.items())
    ]
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    head = b"".join(pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, system))
    keys = pickle.dumps([str(number) for number in range(len(named))], 2)
    data = b"".join(array.size.to_bytes(8, "little") + array.tobytes() for array in named.values())
    path.write_bytes(head + state(b"".join(items)) + keys + data)


def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(np.prod(shape[axis + 1 :])) for axis in range(len(shape)))


def write_zip(path: Path, pickled: bytes, data: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/byteorder", "little")
        for key, content in data.items():
            archive.writestr(f"archive/data/{key}", content)


def state(items: bytes) -> bytes:
    """A pickle of an OrderedDict of these (name, value) pairs."""
    return pickle.PROTO + b"\x02" + _global("collections", "OrderedDict") + b")R(" + items + b"u."


def tensor(
    key: str,
    dtype: str,
    count: int,
    offset: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    legacy: bool = False,
    view: tuple[str, int, int] | None = None,
) -> bytes:
    """The opcodes for one tensor: a call of torch._utils._rebuild_tensor_v2 on a persistent storage.

    A `legacy` file may name a `view` of the storage: (its key, first number, how many).
    """
    storage = b"(" + _plain("storage") + _global("torch", _STORAGES[dtype]) + _plain(key) + _plain("cpu")
    storage += _plain(count) + (_plain(view) if legacy else b"") + b"tQ"
    hooks = _global("collections", "OrderedDict") + b")R"
    layout = _plain(offset) + _plain(shape) + _plain(strides) + _plain(False)
    return _global("torch._utils", "_rebuild_tensor_v2") + b"(" + storage + layout + hooks + b"tR"


def _plain(value: Any) -> bytes:
    return pickle.dumps(value, 2)[2:-1]  # without the opcodes that start and stop a pickle


def _global(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()
