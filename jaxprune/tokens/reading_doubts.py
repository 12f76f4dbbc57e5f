"""What may surprise in how a tokenizer reads texts for its model."""

import os
from itertools import pairwise

from ..checkpoint.tokenizer_files import TokenizerRead

# A tokenizer may have fewer entries than the embedding has rows: tables are padded to a multiple of up to 128, and
# published checkpoints leave up to 2.4 % of theirs unused (DeepSeek 102,400 rows for 100,015 entries, Phi 51,200 for
# 50,295). Beyond both it is likely another model's: BERT's cased vocabulary lacks 5.0 % of the uncased one's rows.
PADDED_ROWS, PADDED_SHARE = 128, 0.03

# Families whose code looks token types up in the table of tokens.
_ADD_TYPES = frozenset(("gpt2",))


def tokenizer_doubts(read: TokenizerRead, rows: int | None) -> tuple[str, ...]:
    """Doubts about the tokenizer, whatever the texts; `rows` are those of the model's embedding (None: not known)."""
    said = _unlike_embedding(read, rows)
    if read.replaced:
        parts = " and ".join(read.replaced)
        said += (
            f"the checkpoint's tokenizer.json has another {parts} than its class, {read.name}, and "
            "tokenizer_config.json say: texts are read by the latter, as transformers does it.",
        )
    if read.unread:
        said += (
            f"config.json has another {' and '.join(read.unread)} than the tokenizer: transformers looks for "
            "it in tokenizer_config.json alone, and so texts are read here.",
        )
    return said


def pair_doubts(read: TokenizerRead, types: int | None) -> tuple[str, ...]:
    """Doubts where a model, whose embedding tells so many `types` apart (None: not known), cannot tell the second text
    of a pair from the first, or hardly."""
    both, said = read.backend.encode("a", "a"), ()
    typed = any(both.type_ids) and (types is None or types > 1)
    if typed and not read.types:
        said = (
            "the tokenizer tells the second text of a pair from the first, but transformers hands a model no "
            f"token_type_ids of a {read.name}: all tokens are read as the first text's, as there; name "
            "them in model_input_names of tokenizer_config.json if the model was trained with them.",
        )
    if not (typed and read.types) and (0, 1) in pairwise(both.sequence_ids):
        said += (
            "the tokenizer puts nothing between the two texts of a pair, as in transformers, so that the model "
            "reads them as one; end the first texts with a separator if it was trained with one.",
        )
    return said


def type_doubts(read: TokenizerRead, family: str | None) -> tuple[str, ...]:
    """A doubt where transformers' model adds rows of the token table for token types, which ours does not."""
    if family not in _ADD_TYPES or not read.types:
        return ()
    return (
        f"the tokenizer gives token_type_ids, for which transformers' {family} adds the embedding of token 0 or 1 to "
        "every other; that is not done here: take token_type_ids out of model_input_names of tokenizer_config.json if "
        "the model was trained without.",
    )


def file_doubts(text: str) -> tuple[str, ...]:
    """A doubt where a text that comes alone is the name of a file."""
    if not os.path.isfile(text):
        return ()
    return (f"{text} is the name of a file, and was read as a text; read the file, and give what it holds.",)


def _unlike_embedding(read: TokenizerRead, rows: int | None) -> tuple[str, ...]:
    """A doubt where the tokenizer has too few entries for the model; too many show in a text that has one."""
    entries = read.backend.get_vocab_size(with_added_tokens=True)
    if rows is None or rows - entries < max(PADDED_ROWS, PADDED_SHARE * rows):
        return ()
    return (
        f"the tokenizer has {entries} entries, the model's embedding {rows} rows: it is likely another "
        "model's, and texts are read as other tokens than this one was trained on; check the tokenizer files.",
    )
