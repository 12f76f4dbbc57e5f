"""What a language model trains on: windows of running text, parts of documents, conversations; as token ids."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from ..errors import DataError
from ..model import Architecture
from ..runtime.events import OnStep
from ..tasks.example import Example
from ..tasks.running_text import RunningText, beginning
from ..tasks.task import Task
from .conversations import read_conversations
from .documents import documents_doubts, parts_of
from .encoded import Encoded
from .masking import masking_of
from .token_file import mapped
from .tokenizer import Tokenizer
from .unknown import CountedRows
from .windows import windows_of


class LanguageTexts(NamedTuple):
    """Texts to train a language model on."""

    encoded: Encoded  # in files that are mapped into memory
    learnt: np.ndarray  # [texts, tokens] of 0 and 1: which tokens are learnt; [texts, 0]: all
    warnings: tuple[str, ...]


def language_texts(
    tokenizer: Tokenizer,
    task: Task,
    split: str = "train",
    on_step: OnStep | None = None,
    *,
    end_ids: tuple[int, ...] = (),
) -> LanguageTexts:
    """The texts of a split of a language task, or of conversations, in their order.

    `on_step` is that of `pieces.token_ids`; `end_ids` those of the model's architecture: conversations that end with
    another token are a doubt. Raises `DataError`.
    """
    examples = task.split(split)
    what = f"{task.name} from {task.source} ({split})"
    if not task.running:
        rows, reading = read_conversations(tokenizer, examples, task.max_length, task.strict_length, end_ids)
        encoded, learnt = mapped(rows, reading.longest, what)
        return LanguageTexts(encoded, learnt, reading.warnings(f"{split} conversations"))
    rows = running_rows(tokenizer, examples, task.max_length, what, on_step)
    windows = CountedRows(rows, tokenizer.unknown, beginning(examples))
    encoded, learnt = mapped(((ids, None) for ids in windows), task.max_length, what)
    said = windows.so_far.checked(what)
    if by_document(examples):
        encoded, said = replace(encoded, row=task.max_length), said + documents_doubts(tokenizer)
    return LanguageTexts(encoded, learnt, said)


def masked_texts(tokenizer: Tokenizer, task: Task, architecture: Architecture, split: str = "train") -> Encoded:
    """The windows of a split of running text that a masked language model learns from, in files. Raises `DataError`."""
    what = f"{task.name} from {task.source} ({split})"
    examples, special = task.split(split), sum(map(len, tokenizer.around()))
    rows = whole_windows(tokenizer, examples, task.max_length, what)
    windows = CountedRows(rows, tokenizer.unknown, beginning(examples), special)
    encoded, _ = mapped(((ids, None) for ids in windows), task.max_length, what)
    masking = masking_of(tokenizer, architecture)
    if all(np.isin(ids, masking.special).all() for ids in encoded.ids):
        usual = tokenizer.backend.id_to_token(int(np.bincount(encoded.ids[0]).argmax()))
        raise DataError(
            f"{what}: all {encoded.tokens:,} tokens are special ones, such as {usual}, which are never masked, so that "
            "nothing would be learnt; give text whose words the model's tokenizer knows."
        )
    return replace(encoded, masking=masking, unknown=windows.so_far)


def whole_windows(
    tokenizer: Tokenizer, texts: Sequence[Example], length: int, what: str, on_step: OnStep | None = None
) -> Iterator[np.ndarray]:
    """Windows of running text, `length` tokens with those that a tokenizer puts around a text: of masked models.

    Raises `DataError` where there is none.
    """
    if by_document(texts):
        raise DataError("documents are for models that predict the next token; leave documents out.")
    before, after = tokenizer.around()
    own = length - len(before) - len(after)
    if own < 1:
        raise DataError(f"windows of {length} tokens have no room beside special ones; make them longer.")
    for ids in windows_of(tokenizer, texts, own, what, on_step):
        yield np.concatenate([before, ids, after])


def by_document(texts: Sequence[Example]) -> bool:
    """Whether documents are read each on its own."""
    return isinstance(texts, RunningText) and texts.by_document


def running_rows(
    tokenizer: Tokenizer, texts: Sequence[Example], length: int, what: str, on_step: OnStep | None = None
) -> Iterator[np.ndarray]:
    """Windows of running text, or where its documents are read each on its own, their parts."""
    cut = parts_of if by_document(texts) else windows_of
    return cut(tokenizer, texts, length, what, on_step)
