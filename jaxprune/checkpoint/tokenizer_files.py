"""The tokenizer of a checkpoint: the files it is made of, and what transformers makes of them.

transformers builds a tokenizer from three places: tokenizer.json (or older vocabulary files), the settings in
tokenizer_config.json and the class that these or config.json name. A class may rebuild parts of tokenizer.json from the
settings. All that is left to transformers here, for every family, so that a text has the same tokens in both.
"""

import contextlib
import json
import re
import shutil
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from ..doubts import without_others
from ..errors import CheckpointError
from ..model.model import Model
from .files import inside, read_json
from .manifest import MANIFEST, read_manifest

TOKENIZER_JSON = "tokenizer.json"
_SETTINGS = "tokenizer_config.json"
# Under these names families keep a file of SentencePiece: Llama, DeBERTa-v2 and v3, XLM-RoBERTa and CamemBERT.
_PIECES = ("tokenizer.model", "spm.model", "sentencepiece.bpe.model")
_VOCABULARIES = (TOKENIZER_JSON, "vocab.txt", "vocab.json", *_PIECES)  # one of them is needed
TOKENIZER_FILES = (
    *_VOCABULARIES,
    "merges.txt",
    "bpe.codes",  # of PhoBERT and BERTweet, and
    "spiece.model",  # of some BertJapaneseTokenizers: only slow classes read them here
    _SETTINGS,
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)
TEMPLATES = "additional_chat_templates"  # a folder: chat templates beside the default one, NAME.jinja
# The class for files that no configuration names one for; other files belong to several.
_PLAIN_CLASSES = {TOKENIZER_JSON: "PreTrainedTokenizerFast", "vocab.txt": "BertTokenizer"}
_BERT_SETTINGS = ("do_lower_case", "strip_accents", "tokenize_chinese_chars")
_HINT = f"put the checkpoint's {TOKENIZER_JSON} there"


class TokenizerRead(NamedTuple):
    """A tokenizer as transformers builds it, and what it does with texts beyond turning them into ids."""

    backend: Any  # tokenizers.Tokenizer, with the truncation and padding that its file asks for
    name: str  # of transformers' class
    cut_left: bool  # a text that is too long loses its beginning
    types: bool  # the model is given token types; where not, it reads all tokens as type 0
    replaced: tuple[str, ...]  # parts of tokenizer.json that class and settings have replaced by others
    unread: tuple[str, ...] = ()  # settings of config.json that say otherwise and belong into tokenizer_config.json
    own: Any = None  # transformers' tokenizer: its chat template and end token; None: there is none of these


def read_tokenizer(folder: str | Path, config: Mapping[str, Any] | None = None) -> TokenizerRead:
    """The tokenizer of a folder, for the model that `config`, the contents of a config.json, describes.

    Without `config` it is the folder's own; a folder of ours says it in jaxprune.json. Imports transformers: seconds.
    Raises `CheckpointError` where there are no usable files.
    """
    folder = Path(folder)
    config = config_of(folder) if config is None else config
    tokenizer = built_tokenizer(folder, config)
    return TokenizerRead(
        tokenizer.backend_tokenizer,
        type(tokenizer).__name__,
        tokenizer.truncation_side == "left",
        "token_type_ids" in tokenizer.model_input_names,
        _replaced(folder, tokenizer) if inside(folder, TOKENIZER_JSON).is_file() else (),
        tuple(key for key in _BERT_SETTINGS if key in config and config[key] != getattr(tokenizer, key, config[key])),
        tokenizer,
    )


def built_tokenizer(folder: Path, config: Mapping[str, Any], **changes: Any) -> Any:
    """transformers' own object, a fast tokenizer, for the model that `config` describes; it has the chat template.

    `changes` are settings that replace those of tokenizer_config.json. Raises `CheckpointError` as `read_tokenizer`.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder, so it has no tokenizer; give a checkpoint's folder.")
    template_files(folder)  # transformers would follow links
    present = [name for name in TOKENIZER_FILES if inside(folder, name).is_file()]
    vocabularies = [name for name in _VOCABULARIES if name in present]
    if not vocabularies:
        raise CheckpointError(
            f"{folder} has no tokenizer files{' that are read here' if present else ''}; put the checkpoint's "
            f"{TOKENIZER_JSON} there (or its vocab.txt)."
        )
    settings = read_json(folder / _SETTINGS, "copy it anew") if _SETTINGS in present else {}
    tokenizer = _build(folder, config, settings, vocabularies, changes)
    if TOKENIZER_JSON not in vocabularies:
        needed = {name for kind, name in tokenizer.vocab_files_names.items() if kind != "tokenizer_file"}
        if missing := sorted(needed - set(present)):
            # transformers builds a tokenizer without words then, and says nothing.
            raise CheckpointError(
                f"{folder} has no {' and no '.join(missing)}, which a {type(tokenizer).__name__} is made of; {_HINT}."
            )
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise CheckpointError(f"{folder} has only a slow tokenizer ({type(tokenizer).__name__}); {_HINT}.")
    return tokenizer


def template_files(folder: Path) -> list[Path]:
    """The chat templates of a folder beside its default one. Raises `CheckpointError` for a link to somewhere else."""
    place = inside(folder, TEMPLATES)
    return [inside(place, file.name) for file in sorted(place.glob("*.jinja")) if file.is_file()]


def is_template_file(name: str) -> bool:
    """Whether a file of a folder of ours, by its path in it, is such a template."""
    place, _, file = name.rpartition("/")
    return place == TEMPLATES and file.endswith(".jinja")


def config_for(model: Model) -> dict[str, Any]:
    """What says which class the tokenizer of `model` is: its checkpoint's config.json, else its family."""
    config = model.provenance.record.get("source_config")
    return config if isinstance(config, dict) else {"model_type": model.architecture.family}


def copy_tokenizer(source: str | Path, config: Mapping[str, Any], folder: Path) -> tuple[str, ...]:
    """Copy what tells texts from ids, and see that tokenizer.json is there and says what transformers reads.

    `config` as in `read_tokenizer`. A link that leads elsewhere is not followed; files that cannot be read are copied
    as they are, and a warning, which is given back, says why.
    """
    source = Path(source)
    for name in TOKENIZER_FILES:
        with contextlib.suppress(CheckpointError):
            if inside(source, name).is_file():
                shutil.copyfile(source / name, folder / name)
    with contextlib.suppress(CheckpointError):
        for template in template_files(source):
            (folder / TEMPLATES).mkdir(exist_ok=True)
            shutil.copyfile(template, folder / TEMPLATES / template.name)
    try:
        backend = read_tokenizer(source, config).backend
    except CheckpointError as error:
        if not any((folder / name).is_file() for name in TOKENIZER_FILES):  # it has no tokenizer
            return ()
        lacking = "" if (folder / TOKENIZER_JSON).is_file() else f", without a {TOKENIZER_JSON}"
        return (f"the tokenizer's files were copied as they are{lacking}: {error}",)
    said, file = backend.to_str(pretty=True), folder / TOKENIZER_JSON
    if not file.exists() or json.loads(_stored(file).to_str()) != json.loads(said):
        file.write_text(said, encoding="utf-8")
    return ()


def keep_class(source: Path, config: Mapping[str, Any], folder: Path) -> None:
    """Have the tokenizer_config.json in `folder` name the class that the `config` of its source says, as that file
    stays behind: another model's config.json would make another class of the same files.
    """
    file = folder / _SETTINGS
    settings = read_json(file, "copy it anew") if file.exists() else {}
    if settings.get("tokenizer_class") is None:
        with contextlib.suppress(CheckpointError):  # which was told
            said = {**settings, "tokenizer_class": read_tokenizer(source, config).name}
            file.write_text(json.dumps(said, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def config_of(folder: Path) -> dict[str, Any]:
    """The config.json of a folder, or what a folder of ours says of its source's; empty where there is neither."""
    if (folder / MANIFEST).exists():
        manifest = read_manifest(folder)
        config = manifest.get("source_config")
        return config if isinstance(config, dict) else {"model_type": manifest["architecture"].get("family")}
    if (folder / "config.json").exists():
        return read_json(inside(folder, "config.json"), "copy it anew")
    return {}


def _build(
    folder: Path,
    config: Mapping[str, Any],
    settings: Mapping[str, Any],
    vocabularies: list[str],
    changes: Mapping[str, Any],
) -> Any:
    """transformers' tokenizer of a folder. Raises `CheckpointError` that says what is wrong with which file."""
    if not any((settings.get("tokenizer_class"), config.get("tokenizer_class"), config.get("model_type"))):
        if vocabularies[0] not in _PLAIN_CLASSES:
            raise CheckpointError(
                f"nothing in {folder} says which class of tokenizer {vocabularies[0]} belongs to; "
                f"{_HINT}, or its config.json."
            )
        config = {"tokenizer_class": _PLAIN_CLASSES[vocabularies[0]]}
    pieces = vocabularies[0] if len(vocabularies) == 1 and vocabularies[0] in _PIECES else None
    if pieces is not None:
        _check_sentencepiece(folder / pieces)
    with without_others():  # "PyTorch was not found"; what matters in them is said by us
        from transformers import AutoTokenizer

        try:
            return AutoTokenizer.from_pretrained(
                str(folder), config=_class_config(config), local_files_only=True, trust_remote_code=False, **changes
            )
        except Exception as error:  # of many kinds: the tokenizers package raises bare Exceptions
            if TOKENIZER_JSON in vocabularies:
                _stored(folder / TOKENIZER_JSON)  # where that is what is wrong, say so
            # tiktoken is its last resort, for any damaged file.
            if pieces is not None and "tiktoken" in str(error):
                error = ValueError(f"{pieces} is no SentencePiece file that it can read")
            hint = "copy it anew" if TOKENIZER_JSON in vocabularies else _HINT
            raise CheckpointError(f"the tokenizer files in {folder} do not load: {_line(error)}; {hint}.") from error


def _class_config(config: Mapping[str, Any]) -> Any:
    """As much of a config.json as decides on the tokenizer's class; its sizes, which may be unusual, stay out."""
    from transformers import PreTrainedConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kind = str(config.get("model_type"))
    out = CONFIG_MAPPING[kind]() if kind in CONFIG_MAPPING else PreTrainedConfig()
    if isinstance(name := config.get("tokenizer_class"), str):
        out.tokenizer_class = name
    return out


def _check_sentencepiece(file: Path) -> None:
    """transformers needs packages for such a file that it does not bring, and names another one in its error."""
    with file.open("rb") as lines:
        ranks = re.fullmatch(rb"[A-Za-z0-9+/]+=* \d+\s*", lines.readline(1000)) is not None
    kind, packages = ("tiktoken", ("tiktoken",)) if ranks else ("SentencePiece", ("sentencepiece", "protobuf"))
    modules = {"protobuf": ("google", "google.protobuf")}  # the first without the second is another package's
    missing = [name for name in packages if not all(map(find_spec, modules.get(name, (name,))))]
    if missing:
        verb = "the packages {} read" if len(missing) > 1 else "the package {} reads"
        raise CheckpointError(
            f"{file} is a {kind} file, which {verb.format(' and '.join(missing))}: pip install {' '.join(missing)}, or "
            f"{_HINT}."
        )


# Of tokenizer.json, what decides on ids; its tokens are compared as the model's.
_PARTS = ("normalizer", "pre_tokenizer", "post_processor", "model")


def _replaced(folder: Path, tokenizer: Any) -> tuple[str, ...]:
    if type(tokenizer).__name__ == "TokenizersBackend":  # the class that takes the file as it is
        return ()
    stored, built = (_parts(backend) for backend in (_stored(folder / TOKENIZER_JSON), tokenizer.backend_tokenizer))
    return tuple(part for part in _PARTS if stored[part] != built[part])


def _parts(backend: Any) -> dict[str, Any]:
    """The parts of a tokenizer.json, "" and null taken for the same."""
    parts = json.loads(backend.to_str())
    return parts | {"model": {name: value for name, value in parts["model"].items() if value not in ("", None)}}


def _stored(file: Path) -> Any:
    """The `tokenizers.Tokenizer` that a file holds, as it stands."""
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # the package raises bare Exceptions
        raise CheckpointError(f"{file} is not a tokenizer: {_line(error)}; copy it anew.") from error


def _line(error: Exception) -> str:
    """The first line of an error's text: our messages are one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
