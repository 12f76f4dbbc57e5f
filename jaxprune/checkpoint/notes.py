"""A model's tokenizer, its own or one that was handed in (`tokenizer=`), or of images the settings in its place; and a
model's notes as a folder takes them.
"""

import tempfile
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from ..model.heads import head_of
from ..model.model import REGAIN, Model
from .generation import GENERATION
from .image_settings import PREPROCESSOR, ImageSettings, copy_image_settings, read_image_settings
from .tokenizer_files import (
    TokenizerRead,
    built_tokenizer,
    config_for,
    config_of,
    copy_tokenizer,
    keep_class,
    read_tokenizer,
)


def tokenizer_of(model: Model) -> TokenizerRead:
    """The tokenizer that was handed in, else that of the folder the model was read from. Imports transformers: seconds.

    Raises `CheckpointError` where there is none: for a model made in memory, and for one whose notes JAX dropped.
    """
    given = model.provenance.tokenizer
    if isinstance(given, (str, Path)):
        return read_tokenizer(given, config_of(Path(given)) or config_for(model))
    if given is not None:
        return loaded(given)
    return read_tokenizer(_source(model), config_for(model))


def whole_tokenizer(model: Model, **changes: Any) -> Any:
    """The same (`tokenizer_of`) as transformers' own object: with its special tokens by name and its chat template.

    One that was handed in loaded is copied, and `changes`, settings that replace those of a folder's
    tokenizer_config.json, are none of its. Raises `CheckpointError` as `tokenizer_of`.
    """
    given = model.provenance.tokenizer
    if isinstance(given, (str, Path)):
        return built_tokenizer(Path(given), config_of(Path(given)) or config_for(model), **changes)
    if given is not None:
        return deepcopy(_in_transformers(given))
    return built_tokenizer(_source(model), config_for(model), **changes)


def images_of(model: Model) -> tuple[ImageSettings, tuple[str, ...]]:
    """What is done to images for a model, and doubts: of the folder that was handed in, else of its source.

    Raises `CheckpointError` as `read_image_settings`, and where a tokenizer was handed in.
    """
    patches = model.architecture.patches
    channels = 1 if patches is None else patches.channels
    return read_image_settings(_image_source(model), model.architecture.family, channels)


def _image_source(model: Model) -> Path:
    given = model.provenance.tokenizer
    if given is None:
        return _source(model)
    if not isinstance(given, (str, Path)):
        raise CheckpointError(
            f"tokenizer is a {type(given).__name__}, and the model reads images; pass a folder with {PREPROCESSOR}, or "
            "leave it out."
        )
    return Path(given)


def write_tokenizer(model: Model, folder: Path) -> tuple[str, ...]:
    """Write the tokenizer's files (`tokenizer_of`), or what is done to images; none for a model that has none.

    Gives back warnings, of what cannot be written.
    """
    given, source = model.provenance.tokenizer, model.provenance.source
    if given is None and source is not None and not Path(source).is_dir():
        return (f"{source}, where the model was read from, is gone: {_lost_with_source(model)}",)
    if model.architecture.patches is not None:
        if given is not None or source is not None:
            copy_image_settings(_image_source(model), folder)
        return ()
    if isinstance(given, (str, Path)):
        own = config_of(Path(given))
        warnings = copy_tokenizer(given, own or config_for(model), folder)
        if own:
            keep_class(Path(given), own, folder)
        return warnings
    if given is None:
        return () if source is None else copy_tokenizer(source, config_for(model), folder)
    from tokenizers import Tokenizer as Fast

    own = _in_transformers(given)
    with tempfile.TemporaryDirectory() as made:  # a package may write files that are none of ours
        own.save_pretrained(made)
        warnings = copy_tokenizer(made, {}, folder)
    if isinstance(given, Fast) and own.pad_token is None:
        warnings += (
            "the tokenizer that was handed in does not say which of its tokens pads, begins or ends a text, nor does "
            "what is written of it; pass a tokenizer of transformers, or a folder.",
        )
    return warnings


def _lost_with_source(model: Model) -> str:
    """What a folder lacks that is written from a model whose source is gone, and what to do."""
    cure = "pass tokenizer=FOLDER."
    if model.architecture.patches is not None:
        return f"what is done to images ({PREPROCESSOR}) is not written; {cure}"
    settings = f", and of {GENERATION} the end tokens alone" if head_of(model.architecture).generates else ""
    return f"no tokenizer is written, so that the folder takes token ids and no texts{settings}; {cure}"


def to_save(model: Model, tokenizer: Any) -> Model:
    """The model as a folder is written from it: with `tokenizer`, where one is handed in, in place of its own.

    Raises `CheckpointError` for what is no tokenizer, and for a model whose notes JAX dropped: its folder would lack
    record and tokenizer, and nothing would say so. With a tokenizer it is written, and says what is lost.
    """
    model = model.with_tokenizer(tokenizer)
    notes = model.provenance
    if notes.tokenizer is not None:
        (tokenizer_of if model.architecture.patches is None else images_of)(model)
    if not notes.dropped:
        return model
    if notes.tokenizer is None:
        raise CheckpointError(
            f"the model has lost its notes (record, tokenizer), so its folder would lack them. {REGAIN}. To save "
            "weights without a record, pass tokenizer=FOLDER."
        )
    warning = "the record of what was done to this model was lost before it was saved: it cannot be exported."
    return model.replace(provenance=replace(notes, warnings=(*notes.warnings, warning)))


def loaded(tokenizer: Any) -> TokenizerRead:
    """A tokenizer that is in memory, copied: encoding changes its settings.

    It is one of the package tokenizers, a fast one of transformers, or a `Tokenizer` of ours; for anything else,
    `CheckpointError`.
    """
    from tokenizers import Tokenizer as Fast

    own = _in_transformers(tokenizer)
    backend = Fast.from_str(own.backend_tokenizer.to_str())
    # split_special_tokens of transformers, which the text of a tokenizer does not hold.
    backend.encode_special_tokens = own.backend_tokenizer.encode_special_tokens
    return TokenizerRead(
        backend,
        type(own).__name__,
        own.truncation_side == "left",
        "token_type_ids" in own.model_input_names,
        replaced=(),
        unread=(),
        own=own,
    )


def _source(model: Model) -> Path:
    """The folder that a model was read from."""
    if model.provenance.source is None:
        raise CheckpointError(f"the model has no notes of where its tokenizer is; pass tokenizer=FOLDER. {REGAIN}.")
    return Path(model.provenance.source)


def _in_transformers(tokenizer: Any) -> Any:
    """The same tokenizer as transformers has it: what it does beyond turning texts into ids is said there."""
    from tokenizers import Tokenizer as Fast

    if isinstance(getattr(tokenizer, "backend_tokenizer", None), Fast):
        return tokenizer
    read = getattr(tokenizer, "read", None)  # of ours
    if not isinstance(read, TokenizerRead):
        if not isinstance(tokenizer, Fast):
            raise CheckpointError(
                f"tokenizer is a {type(tokenizer).__name__}, expected a folder, or a fast tokenizer of tokenizers or "
                "transformers."
            )
        read = TokenizerRead(tokenizer, "", False, True, (), ())
    if read.own is not None:
        own = deepcopy(read.own)
        own.backend_tokenizer.no_truncation()
        own.backend_tokenizer.no_padding()
        return own
    backend = Fast.from_str(read.backend.to_str())
    backend.no_truncation()
    backend.no_padding()
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        truncation_side="left" if read.cut_left else "right",
        model_input_names=["input_ids", *(["token_type_ids"] if read.types else []), "attention_mask"],
    )
