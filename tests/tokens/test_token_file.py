"""Token ids in mapped files: the same as in memory, and little of that."""

import json
import tracemalloc
from typing import Any

import jax
import numpy as np
import pytest

import jaxprune as jp
from jaxprune.errors import DataError, OutputError
from jaxprune.finetuning.epochs import own_part, packed, shuffled
from jaxprune.tokens import conversations, packing
from jaxprune.tokens.encoded import Encoded
from jaxprune.tokens.language_texts import language_texts
from jaxprune.tokens.packing import pack
from jaxprune.tokens.token_file import mapped
from jaxprune.tokens.tokenizer import Tokenizer
from jaxprune.tokens.windows import windows_of
from tests.helpers import chat as given


def rows_of(count, longest=12, seed=0):
    random = np.random.RandomState(seed)
    ids = [random.randint(0, 26, random.randint(1, longest + 1)) for _ in range(count)]
    return [(row.astype(np.int32), (random.random_sample(len(row)) < 0.5).astype(np.uint8)) for row in ids]


def in_memory(rows):
    return Encoded([ids for ids, _ in rows], [np.zeros_like(ids) for ids, _ in rows])


def test_rows_come_back_as_they_were(tiny, monkeypatch):
    rows = rows_of(50)
    encoded, learnt = mapped(iter(rows), 20, "here")
    plain = in_memory(rows)
    assert [ids.tolist() for ids in encoded.ids] == [ids.tolist() for ids in plain.ids] and len(encoded) == 50
    assert [ids.tolist() for ids in encoded.ids[3:40:7]] == [ids.tolist() for ids in plain.ids[3:40:7]]
    assert encoded.tokens == plain.tokens and encoded.lengths.tolist() == plain.lengths.tolist()
    assert all(
        not types.any() and len(types) == len(ids) for ids, types in zip(encoded.ids, encoded.types, strict=True)
    )
    assert learnt.shape == (50, encoded.lengths.max())
    for (ids, mask), row in zip(rows, learnt, strict=True):
        assert row[: len(ids)].tolist() == mask.tolist() and not row[len(ids) :].any()
    monkeypatch.setattr(packing, "TOGETHER", 7)
    for one, other in zip(pack(encoded, tiny().architecture), pack(plain, tiny().architecture), strict=True):
        assert all(np.array_equal(a, b) for a, b in leaves(one, other))
    assert mapped(((ids, None) for ids, _ in rows), 20, "here").learnt.shape == (50, 0)


def leaves(*batches):
    """The arrays of batches side by side; of texts there are no patches."""
    return zip(*map(jax.tree.leaves, batches), strict=True)


def test_an_epoch_makes_the_batches_that_are_asked_for(tiny, monkeypatch):
    """Seed and epoch say the order; what a killed run had done is not made again; processes share rows."""
    encoded = mapped(iter(rows_of(103)), 12, "here").encoded
    settings: Any = {"size": 8, "seed": 5, "multiple": 2}
    whole = shuffled(encoded, tiny().architecture, **settings)
    made = []
    monkeypatch.setattr(
        "jaxprune.finetuning.epochs.batch_of", lambda *given: made.append(given[0]) or packing.batch_of(*given)
    )
    todo = whole(1)[9:]
    before = len(made)
    assert before < 3  # what checks types in tests looks at one or two
    last = list(todo)
    assert len(made) - before == len(last) == 13 - 9
    first = list(whole(1))
    for one, other in zip(first[9:], last, strict=True):
        assert all(np.array_equal(a, b) for a, b in leaves(one, other))
    assert sorted(int(n) for batch in first for n in batch.index[batch.index >= 0]) == list(range(103))
    assert not np.array_equal(whole(2)[0].ids, first[0].ids)
    for number, batch in enumerate(first):
        parts = [own_part(whole(1), (0, 2))[number], own_part(first, (1, 2))[number]]  # an epoch, and a list
        assert all(np.array_equal(np.concatenate(both), leaf) for *both, leaf in leaves(*parts, batch))


def test_documents_fill_rows_without_seeing_each_other(tiny):
    encoded = mapped(iter(rows_of(103)), 12, "here").encoded
    settings: Any = {"size": 4, "length": 12, "seed": 5, "multiple": 2}
    epochs = packed(encoded, tiny().architecture, **settings)
    every = list(epochs(0))
    assert all(batch.ids.shape == (4, 12) for batch in every) and len(every) == len(epochs(1))
    assert encoded.tokens / (len(every) * 4 * 12) > 0.93
    assert sorted(int(n) for batch in every for n in batch.index[batch.index >= 0]) == list(range(103))
    assert epochs(0).counts.tolist() == [int((batch.index >= 0).sum()) for batch in every]
    for one, other in zip(packing.unpack(every).ids, encoded.ids, strict=True):
        assert np.array_equal(one, other)
    assert not np.array_equal(epochs(1)[0].ids, every[0].ids)
    halves = [epochs(0).part((n, 2))[3:][0] for n in range(2)]
    assert all(np.array_equal(np.concatenate(both), leaf) for *both, leaf in leaves(*halves, every[3]))


def test_no_texts_and_no_room(monkeypatch):
    with pytest.raises(DataError, match="here has no texts to train on"):
        mapped(iter(()), 8, "here")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    with pytest.raises(OutputError, match="cannot be written .No space left on device.; make room, or name another"):
        mapped(iter(rows_of(2)), 12, "here")


def test_texts_of_tasks(tmp_path):
    tokenizer = Tokenizer.of(given.write_chat_tokenizer(tmp_path / "tokenizer", given.PLAIN))
    (tmp_path / "a.txt").write_text("the film " * 40)
    (tmp_path / "b.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in ("the", "film film")))
    (tmp_path / "scored.txt").write_text("the film")
    task = jp.tasks.text(tmp_path / "scored.txt", train=[tmp_path / "b.jsonl", tmp_path / "a.txt"], length=8)
    texts = language_texts(tokenizer, task)
    expected = list(windows_of(tokenizer, task.train, 8, "here"))
    assert np.array_equal(texts.encoded.ids[:], expected) and texts.learnt.shape == (len(expected), 0)
    rows = [{"messages": given.turns("a", "b")}, {"messages": given.turns("a" * 90, "b")}]
    task = jp.tasks.chat(given.write_rows(tmp_path / "c.jsonl", rows), max_length=60)
    texts = language_texts(tokenizer, task, "validation")
    assert len(texts.encoded) == 1 and "1 of 2 validation conversations were dropped" in texts.warnings[1]
    ids, learnt = texts.encoded.ids[0], texts.learnt[0]
    assert tokenizer.backend.decode(ids[learnt > 0].tolist(), skip_special_tokens=False) == "b<|im_end|>"


def test_memory_does_not_grow_with_the_file(tmp_path, monkeypatch):
    """Twenty times the text takes a few numbers more for each row."""
    tokenizer = Tokenizer.of(given.write_chat_tokenizer(tmp_path / "tokenizer", given.PLAIN))
    monkeypatch.setattr(conversations, "TOGETHER", 64)
    peaks = []
    for count in (200, 2_000):
        rows = [{"prompt": f"question {number} the film", "completion": " the film" * 9} for number in range(count)]
        task = jp.tasks.chat(given.write_rows(tmp_path / f"{count}.jsonl", rows), max_length=64)
        del rows
        tracemalloc.start()
        texts = language_texts(tokenizer, task, "validation")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(texts.encoded) == count
    assert peaks[1] < peaks[0] + 1_800 * 100, peaks  # bytes: some numbers for each row, which has 300 characters
