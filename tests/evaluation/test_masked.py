"""Masked language models: scored, calibrated, pruned and read at masks; what they are not for."""

from dataclasses import replace

import jax
import numpy as np
import pytest

import jaxprune as jp
from jaxprune.errors import CheckpointError, DataError
from jaxprune.tokens.masking import SHARE, mask_of, special_of, with_masks
from jaxprune.tokens.tokenizer import Tokenizer
from tests.helpers import tiny
from tests.helpers.tokenizers import WORDS, write_bert

TEXTS = ["film cafe films 電 影 cafe", "cafe film films cafe 電 film", "影 films film cafe film cafe films"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    settings = tiny.config("bert", "masked_lm", vocab_size=len(WORDS), max_position_embeddings=90)
    path = tiny.write(tmp_path_factory.mktemp("masked") / "model", settings, tiny.tensors(settings))
    write_bert(path)
    return path


@pytest.fixture(scope="module")
def model(folder):
    return jp.load(folder)


def softmax(x):
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def test_pseudo_perplexity_masks_every_token_in_turn(model, tmp_path):
    (tmp_path / "text.txt").write_text(" ".join(TEXTS))
    scored = jp.evaluate(model, jp.tasks.text(tmp_path / "text.txt", length=7, windows=2))
    ids = Tokenizer.of(model).plain(" ".join(TEXTS))
    losses = []
    for window in (ids[:5], ids[5:10]):
        copies = np.tile(np.concatenate([[2], window, [3]]), (5, 1))
        copies[np.arange(5), 1 + np.arange(5)] = WORDS.index("[MASK]")
        p = softmax(np.asarray(jp.logits(model, copies), np.float64))
        losses += [-np.log(p[place, 1 + place, window[place]]) for place in range(5)]
    assert scored.metrics["loss"] == pytest.approx(np.mean(losses), rel=1e-5) and scored.tokens == 14
    assert scored.score == pytest.approx(np.exp(np.mean(losses)), rel=1e-5) and scored.examples == 2


def test_a_share_of_own_tokens_is_masked_for_calibration(model):
    reader = Tokenizer.of(model)
    encoded = reader.encode([jp.tasks.Example(text, None, None) for text in TEXTS * 20], 64)
    masked = with_masks(reader, encoded, 0)
    changed = [np.flatnonzero(one != other) for one, other in zip(encoded.ids, masked.ids, strict=True)]
    special = special_of(reader)
    for before, after, places in zip(encoded.ids, masked.ids, changed, strict=True):
        assert np.all(after[places] == mask_of(reader)) and not np.isin(before[places], special).any()
        assert len(places) == max(1, round(SHARE * (len(before) - 2)))
    assert len({tuple(places) for places in changed}) > 3


@pytest.mark.slow
def test_it_is_pruned_saved_and_brought_back_with_its_head(model, tmp_path):
    texts = jp.Calibration.of_texts([" ".join([text] * 12) for text in TEXTS] * 12, max_length=80)
    small = jp.prune(model, texts, jp.Budget(0.5))
    assert small.report.masked_vs_cut < 1e-5
    jax.tree.map(np.testing.assert_array_equal, small.params["head"], model.params["head"])
    jp.save(small, tmp_path / "small")
    again, ids = jp.load(tmp_path / "small"), np.random.RandomState(0).randint(5, len(WORDS), (2, 6))
    assert again.architecture.head == "masked_lm"
    np.testing.assert_array_equal(jp.logits(again, ids), jp.logits(small, ids))
    smaller = jp.prune(model, texts, jp.Budget(0.8), jp.Random())
    back = jp.Recover(texts, steps=20, batch_size=16, learning_rate=2e-3)(smaller, model)
    gap = back.provenance.record["recovery"]["gap"]
    assert gap["after"] < gap["before"]


def test_the_likeliest_tokens_at_masks(model):
    said = jp.predict(model, ["film [MASK] cafe [MASK]", "[MASK] films"])
    assert [len(prediction.masks) for prediction in said] == [2, 1]
    p = softmax(np.asarray(jp.logits(model, [[2, 5, 4, 8, 4, 3]]), np.float64))[0]
    for place, told in zip((2, 4), said[0].masks, strict=True):
        best = np.argsort(-p[place])[:5]
        assert [entry.id for entry in told] == best.tolist()
        np.testing.assert_allclose([entry.probability for entry in told], p[place][best], rtol=1e-5)
    with pytest.raises(DataError, match="text 1 has no \\[MASK\\]"):
        jp.predict(model, ["[MASK]", "film"])


def test_what_it_is_not_for_is_said(model, folder, tmp_path):
    (tmp_path / "text.txt").write_text(" ".join(TEXTS * 20))
    task = jp.tasks.text(tmp_path / "text.txt", length=10)
    learnt = replace(task, train=task.validation)
    with pytest.raises(DataError, match="say how many windows of the text are scored, such as windows=20"):
        jp.finetune(model, learnt, jp.Train(epochs=1))
    with pytest.raises(DataError, match="generating needs a causal_lm head, the model has masked_lm"):
        jp.generate(model, "film", max_new_tokens=2)
    documents = jp.tasks.text(tmp_path / "text.txt", length=10, documents=True)
    with pytest.raises(DataError, match="documents are for models that predict the next token"):
        jp.evaluate(model, documents)
    with pytest.raises(DataError, match="taylor is for language models"):
        jp.prune(model, jp.Calibration.of_texts(TEXTS * 20), jp.Budget(0.5), jp.Taylor())


def test_a_head_that_files_lack_is_none_and_others_are_named(tmp_path):
    settings = tiny.config("bert", "masked_lm")
    named = {name: leaf for name, leaf in tiny.tensors(settings).items() if not name.startswith("cls.")}
    bare = jp.load(tiny.write(tmp_path / "bare", settings, named))
    assert bare.architecture.head == "none" and not bare.provenance.warnings
    untied = {**settings, "tie_word_embeddings": False}
    with pytest.raises(CheckpointError, match="tie_word_embeddings is false"):
        jp.load(tiny.write(tmp_path / "untied", untied, tiny.tensors(settings)))
    settings = tiny.config("electra", "none") | {"architectures": ["ElectraForPreTraining"]}
    named = {
        "electra." * ("." in name) + name.removeprefix("electra."): leaf
        for name, leaf in tiny.tensors(settings).items()
    }
    named["discriminator_predictions.dense.weight"] = np.ones((12, 12), np.float32)
    model = jp.load(tiny.write(tmp_path / "electra", settings, named))
    assert any("names no discriminator, but the files hold one" in entry for entry in model.provenance.warnings)
