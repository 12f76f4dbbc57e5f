"""Masked language models learn from running text: which words are masked, the loss, and a run that goes on."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune.errors import DataError, SettingsError
from jaxprune.finetuning import prune_lora
from jaxprune.finetuning.epochs import batches_for
from jaxprune.finetuning.importance import gate_importance
from jaxprune.finetuning.losses import mean_loss, targets_of
from jaxprune.finetuning.recap import Recap, run_recap
from jaxprune.finetuning.recap.sweep import sweep
from jaxprune.finetuning.texts import prepare
from jaxprune.model import Sites, forward
from jaxprune.model.padded import plain_batch
from jaxprune.pruning.cut import everything_kept
from jaxprune.runtime.programs import Programs
from jaxprune.tokens.encoded import Encoded, Masking
from jaxprune.tokens.masking import masked_anew
from jaxprune.tokens.packing import batch_of
from tests.helpers import tiny
from tests.helpers.tokenizers import WORDS, write_bert

MASKING = Masking(mask=4, special=(0, 2, 3, 4), entries=30)
TEXTS = "film cafe films film cafe 電 影 films cafe film " * 40


def batch_of_rows(texts, rows, length):
    """`rows` say which texts lie in each row."""
    architecture = tiny.architecture(tiny.config("bert", "masked_lm"))
    places = max(map(len, rows))
    encoded = Encoded(texts, [np.zeros_like(text) for text in texts])
    return batch_of(rows, encoded, architecture, (len(rows), length, places))


def test_words_are_masked_by_the_rule_of_pre_training():
    """Frequencies of 20,000 words: 0.01 is three standard deviations and more."""
    texts = [np.concatenate([[2], np.arange(200) % 25 + 5, [3]]) for _ in range(100)]
    batch = batch_of_rows(texts, [[number] for number in range(100)], 204)
    masked = masked_anew(batch, MASKING, 0.15, 7, 0)
    chosen = np.asarray(masked.words) >= 0
    special = np.isin(batch.ids, MASKING.special) | (np.asarray(batch.segments) == 0)
    assert not np.any(chosen & special) and np.mean(chosen[~special]) == pytest.approx(0.15, abs=0.01)
    np.testing.assert_array_equal(np.asarray(masked.words)[chosen], batch.ids[chosen])
    np.testing.assert_array_equal(masked.ids[~chosen], batch.ids[~chosen])
    after, before = masked.ids[chosen], batch.ids[chosen]
    assert np.mean(after == MASKING.mask) == pytest.approx(0.8, abs=0.03)
    assert np.mean(after == before) == pytest.approx(0.1, abs=0.03)
    others = after[(after != MASKING.mask) & (after != before)]
    assert others.max() < 30 and len(np.unique(others)) > 20  # of the whole vocabulary, special tokens too
    assert np.mean(np.asarray(masked_anew(batch, MASKING, 0.4, 7, 0).words)[~special] >= 0) == pytest.approx(
        0.4, abs=0.02
    )


def test_masks_are_those_of_seed_epoch_and_text_wherever_it_lies():
    texts = [np.arange(5, 5 + length) for length in (20, 12, 8)]
    apart = masked_anew(batch_of_rows(texts, [[0], [1], [2]], 20), MASKING, 0.3, 0, 1)
    together = masked_anew(batch_of_rows(texts, [[1, 2], [0]], 20), MASKING, 0.3, 0, 1)
    for name in ("ids", "words"):
        one, other = getattr(apart, name), getattr(together, name)
        np.testing.assert_array_equal(other[1], one[0])
        np.testing.assert_array_equal(other[0], np.concatenate([one[1, :12], one[2, :8]]))
    for again in ((0, 2), (1, 1)):
        assert np.any(masked_anew(batch_of_rows(texts, [[0], [1], [2]], 20), MASKING, 0.3, *again).words != apart.words)


def test_the_loss_is_over_masked_words_alone():
    """Of more tokens than a slice has, most of which are passed over; and so is its gradient."""
    model = tiny.random_model(tiny.config("bert", "masked_lm", max_position_embeddings=90))
    ids = np.random.RandomState(0).randint(5, 30, (5, 90))
    batch = jax.tree.map(np.asarray, plain_batch(model.architecture, ids))
    masked = jax.tree.map(jnp.asarray, masked_anew(batch, MASKING, 0.1, 0, 0))
    targets, chosen = jnp.zeros((5, 1, 0), jnp.int32), np.asarray(masked.words) >= 0
    assert ids.size > 256 > chosen.sum() > 0

    def by_hand(params):
        logits = jp.logits(model.replace(params=params), masked.ids)
        losses = -jnp.take_along_axis(jax.nn.log_softmax(logits), jnp.asarray(ids)[..., None], axis=-1)[..., 0]
        return jnp.sum(jnp.where(chosen, losses, 0.0)) / chosen.sum()

    ours = partial(mean_loss, batch=masked, targets=targets, architecture=model.architecture)
    got, expected = (jax.jit(jax.value_and_grad(function))(model.params) for function in (ours, by_hand))
    np.testing.assert_allclose(got[0], expected[0], rtol=1e-5)
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-5), got[1], expected[1])


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    settings = tiny.config("bert", "masked_lm", vocab_size=len(WORDS), max_position_embeddings=90)
    tensors = {name: 0.5 * leaf for name, leaf in tiny.tensors(settings).items()}
    folder = tiny.write(tmp_path_factory.mktemp("masked") / "model", settings, tensors)
    write_bert(folder)
    return jp.load(folder)


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    """Forty windows of twelve tokens."""
    folder = tmp_path_factory.mktemp("texts")
    for name in ("train.txt", "text.txt"):
        (folder / name).write_text(TEXTS)
    return jp.tasks.text(folder / "text.txt", train=folder / "train.txt", length=12, windows=2)


def test_a_model_learns_words_and_an_interrupted_run_goes_on_to_the_same_numbers(model, task, tmp_path):
    settings = jp.Train(epochs=3, batch_size=16, learning_rate=1e-2, mask_share=0.2, keep="last")
    tuned = jp.finetune(model, task, settings)
    before, after = jp.evaluate(model, task), tuned.provenance.record["training"]["epochs"][-1]
    assert after["metric"] == "perplexity" and after["score"] < 0.8 * before.score
    assert tuned.provenance.record["training"]["settings"]["mask_share"] == 0.2
    stopped = []

    def stop(event):
        stopped.append(event)
        if len(stopped) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        jp.finetune(model, task, settings, out=tmp_path / "run", on_step=stop)
    again = jp.finetune(model, task, settings, out=tmp_path / "run", resume=True)
    jax.tree.map(np.testing.assert_array_equal, again.params, tuned.params)


def test_recap_learns_words_and_goes_on_to_the_same_numbers(model, task, tmp_path):
    settings = Recap(rounds=2, epochs_per_round=2, remove=0.3, freeze=0.5, samples=16, outer="touched")
    training = jp.Train(batch_size=16, learning_rate=1e-2, mask_share=0.3, keep="last")
    whole = run_recap(model, task, settings, training)
    record = whole.model.provenance.record
    assert [entry["metric"] for entry in whole.rounds] == ["perplexity"] * 2
    assert whole.rounds[-1]["score"] < 0.8 * jp.evaluate(model, task).score
    assert whole.rounds[1]["loss"] < whole.rounds[0]["loss"]
    assert record["masked_vs_cut"] < 1e-5 and record["training"]["settings"]["mask_share"] == 0.3
    assert record["training"]["device_bytes"]["predicted"]["tuning"] > 0
    # Of the token table the rows of words that occur and of the mask have moved, and of the special tokens around.
    moved = np.any(
        np.asarray(whole.full.params["embed"]["token"]) != np.asarray(model.params["embed"]["token"]), axis=1
    )
    seen = {int(number) for ids in prepare(model, task).encoded.ids for number in ids}
    assert {*np.flatnonzero(moved).tolist()} == seen | {4} < {*range(len(WORDS))}
    stopped = []

    def stop(event):
        stopped.append(event)
        if sum(event["phase"] == "train" for event in stopped) == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        jp.recap(model, task, settings, training, out=tmp_path / "run", on_step=stop)
    again = jp.recap(model, task, settings, training, out=tmp_path / "run", resume=True)
    jax.tree.map(np.testing.assert_array_equal, again.params, whole.model.params)


def words_of(batch):
    """By its number, which words of a text are to be said."""
    index, segments, words = map(np.asarray, (batch.index, batch.segments, batch.words))
    return {int(index[row, place]): words[row][segments[row] == place + 1] for row, place in np.argwhere(index >= 0)}


def test_rounds_measure_on_masked_words(model, task):
    """What a sweep gives is what one gradient of the same masked batch gives; an epoch's masks are its own, always."""
    texts = prepare(model, task)
    of = batches_for(texts.encoded, model.architecture, jp.Train(batch_size=32))
    first, again, later = of(0)[0], of(0)[0], of(1)[0]
    np.testing.assert_array_equal(first.ids, again.ids)
    np.testing.assert_array_equal(first.words, again.words)
    one, other = words_of(first), words_of(later)
    shared = one.keys() & other.keys()
    assert shared and any(np.any(one[text] != other[text]) for text in shared)
    fisher = sweep(
        model.params, model.architecture, [first], texts.targets, everything_kept(model.architecture),
        form="fisher", place=lambda tree: jax.tree.map(jnp.asarray, tree), programs=Programs(),
    )  # fmt: skip
    batch, goal = jax.tree.map(jnp.asarray, (first, targets_of(first, texts.targets)))
    loss = partial(mean_loss, batch=batch, targets=goal, architecture=model.architecture)
    slopes = jax.jit(jax.grad(loss))(model.params)["layers"]
    for index in range(2):
        expected = np.sum(np.asarray(slopes[index]["feed_forward"]["up"]["kernel"]) ** 2, axis=0)
        assert expected.max() > 0
        np.testing.assert_allclose(fisher[index]["feed_forward"]["up"], expected, rtol=1e-3)  # squares in float32


def test_prune_lora_measures_heads_on_masked_words_and_trains_on_others(model, task, monkeypatch):
    measured = []

    def recorded(model, batches, *rest, **named):
        measured.append((batches, gate_importance(model, batches, *rest, **named)))
        return measured[-1][1]

    monkeypatch.setattr(prune_lora, "gate_importance", recorded)
    training = jp.Train(epochs=2, batch_size=16, learning_rate=3e-2, mask_share=0.3, keep="last")
    settings = jp.PruneLora(remove_heads=0.34, samples=12, high_blocks=1, high_rank=2, low_rank=1)
    tuned = jp.prune_lora(model, task, settings, training)
    record = tuned.provenance.record
    assert sum(map(len, record["pruned_heads"])) == 2 and record["masked_vs_cut"] < 1e-5
    assert record["training"]["merged_vs_unmerged"] < 1e-5
    first, last = record["training"]["epochs"]
    assert last["loss"] < first["loss"] and last["metric"] == "perplexity"
    ((batches, importance),) = measured

    def loss(gates, ids, words, real):
        """Of one text: the sum over its masked words, each predicted at its own place."""
        sites = Sites(gates=[{"attention": gate[:, None, None]} for gate in gates])
        batch = plain_batch(model.architecture, ids[None], real[None])
        logits = forward(model.params, batch, model.architecture, sites).logits
        assert logits is not None
        each = -jnp.take_along_axis(jax.nn.log_softmax(logits[0]), jnp.maximum(words, 0)[:, None], axis=-1)[:, 0]
        return jnp.sum(jnp.where(words >= 0, each, 0.0))

    slope, ones = jax.jit(jax.grad(loss)), [jnp.ones(3), jnp.ones(3)]
    total, tokens = np.zeros((2, 3)), 0
    for batch in batches:
        assert np.any(np.asarray(batch.words) >= 0)
        for row, place in np.argwhere(np.asarray(batch.index) >= 0):
            own = np.asarray(batch.segments[row]) == place + 1
            ids, words = (np.asarray(leaf[row])[own] for leaf in (batch.ids, batch.words))
            tokens += len(ids)
            total += np.abs(slope(ones, ids, words, np.ones_like(ids)))
    np.testing.assert_allclose(importance.heads, total / tokens, rtol=1e-3)  # float32


def test_text_of_nothing_but_special_tokens_is_refused(model, tmp_path):
    """A word that the tokenizer does not know is a special token, which is never masked."""
    (tmp_path / "text.txt").write_text(TEXTS)
    (tmp_path / "unknown.txt").write_text("zebra quartz " * 40)
    task = jp.tasks.text(tmp_path / "text.txt", train=tmp_path / "unknown.txt", length=12, windows=2)
    with pytest.raises(
        DataError, match=r"\(train\): all \d+ tokens are special ones, such as \[UNK\], which are never"
    ):
        jp.finetune(model, task)
    (tmp_path / "unknown.txt").write_text("zebra quartz " * 40 + "film " * 20)  # windows without any are fine
    assert prepare(model, task).encoded.masking is not None


def test_a_share_is_for_masked_language_models(model):
    with pytest.raises(SettingsError, match=r"mask_share must lie in \(0, 1\), got 1\.0\. To mask 15 % pass 0\.15"):
        jp.Train(mask_share=1.0)
    with pytest.raises(SettingsError, match="mask_share .*on single_label: it is for masked language models"):
        jp.Train(mask_share=0.3).check_for(tiny.architecture(tiny.config("bert")))
