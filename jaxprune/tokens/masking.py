"""Masked tokens: what masked language models are asked for, and what they learn from."""

from dataclasses import replace

import numpy as np

from ..errors import DataError
from ..model import Architecture, Batch
from ..model.heads import head_of
from ..model.targets import IGNORED
from .encoded import Encoded, Masking
from .tokenizer import Tokenizer

SHARE = 0.15  # of a text's own tokens that are masked, as in pre-training (Devlin et al., BERT, 2019)
# Of the chosen tokens in training, how many become the mask, and how many another word; the rest stay as they are.
BLANKED, REPLACED = 0.8, 0.1
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


def masking_of(tokenizer: Tokenizer, architecture: Architecture) -> Masking:
    """What `masked_anew` has to know. Raises `DataError` where the tokenizer has no mask token."""
    entries = tokenizer.backend.get_vocab_size(with_added_tokens=True)
    special = tuple(int(number) for number in special_of(tokenizer))
    return Masking(mask_of(tokenizer), special, min(entries, architecture.vocab))


def masked_anew(batch: Batch, masking: Masking, share: float, seed: int, epoch: int) -> Batch:
    """The batch with words masked, and `words` that say what stood there, as pre-training has it.

    Every token of a text's own is chosen with the probability `share`; 80 % of those chosen become the mask, 10 % any
    other entry of the vocabulary, 10 % stay (Devlin et al., BERT, 2019; transformers'
    DataCollatorForLanguageModeling). What is drawn for a text depends on the seed, the epoch and its number alone:
    not on the batch, the row or the device that it is in, nor on where a run began.
    """
    before, ids = np.asarray(batch.ids), np.array(batch.ids)
    words = np.full(ids.shape, IGNORED, np.int32)
    for row, place in np.argwhere(np.asarray(batch.index) >= 0):
        slots = np.flatnonzero(np.asarray(batch.segments[row]) == place + 1)
        random = np.random.RandomState([seed, epoch, int(batch.index[row, place])])
        chosen, fate = random.random_sample((2, len(slots)))
        others = random.randint(0, masking.entries, len(slots))
        here = (chosen < share) & ~np.isin(before[row, slots], masking.special)
        words[row, slots[here]] = before[row, slots[here]]
        ids[row, slots[here & (fate < BLANKED)]] = masking.mask
        replaced = here & (fate >= BLANKED) & (fate < BLANKED + REPLACED)
        ids[row, slots[replaced]] = others[replaced]
    return batch._replace(ids=ids, words=words)  # type: ignore[arg-type]
