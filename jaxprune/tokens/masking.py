"""Masked tokens: what masked language models are asked for."""

from dataclasses import replace

import numpy as np

from ..errors import DataError
from ..model import Architecture
from ..model.heads import head_of
from .encoded import Encoded
from .tokenizer import Tokenizer

SHARE = 0.15  # of a text's own tokens that are masked, as in pre-training (Devlin et al., BERT, 2019)
_USUAL = ("[MASK]", "<mask>")  # where a tokenizer's files do not name it


def reads_masks(architecture: Architecture) -> bool:
    """Whether a model says what stands at masked places."""
    language = head_of(architecture).language
    return language is not None and not language.causal


def mask_of(tokenizer: Tokenizer) -> int:
    """The id of the mask token. Raises `DataError` where the tokenizer has none."""
    own = None if tokenizer.read.own is None else tokenizer.read.own.mask_token_id
    named = next((number for name in _USUAL if (number := tokenizer.backend.token_to_id(name)) is not None), None)
    number = named if own is None else int(own)
    if number is None:
        raise DataError("the tokenizer has no mask token, [MASK] or <mask>; take the files of the model's own.")
    return number


def special_of(tokenizer: Tokenizer) -> np.ndarray:
    """Ids of tokens that are never masked: those that are put around a text and between two, and the mask itself."""
    own = [] if tokenizer.read.own is None else tokenizer.read.own.all_special_ids
    return np.unique([*own, *np.concatenate(tokenizer.around()), mask_of(tokenizer)])


def with_masks(tokenizer: Tokenizer, encoded: Encoded, seed: int) -> Encoded:
    """The texts with a share of their own tokens masked, at least one of each, drawn with `seed`."""
    mask, special, random = mask_of(tokenizer), special_of(tokenizer), np.random.RandomState(seed)
    masked = []
    for ids in encoded.ids:
        own = np.flatnonzero(~np.isin(ids, special))
        chosen = random.choice(own, max(1, round(SHARE * len(own))), replace=False) if len(own) else own
        changed = np.array(ids)
        changed[chosen] = mask
        masked.append(changed)
    return replace(encoded, ids=masked)
