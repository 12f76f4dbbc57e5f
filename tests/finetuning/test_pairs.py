"""Embedding models trained on pairs of texts, and brought back without labels."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune.errors import DataError, SettingsError
from jaxprune.finetuning.epochs import batches_for, first_texts
from jaxprune.finetuning.losses import mean_loss, targets_of
from jaxprune.finetuning.texts import prepare
from jaxprune.model.in_batch import SCALE
from tests.finetuning.conftest import WORDS
from tests.helpers.sentences import write_folder
from tests.model.test_heads import softmax

TRAIN = jp.Train(epochs=8, batch_size=12, learning_rate=1e-2, dropout=0.0)


def lively(model):
    """The same with norms that scale by 1: drawn at random, they would make all vectors alike."""
    draw = lambda path, leaf: jnp.ones_like(leaf) if "scale" in jax.tree_util.keystr(path) else leaf  # noqa: E731
    return model.replace(params=jax.tree_util.tree_map_with_path(draw, model.params))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs") / "m"
    return lively(jp.load(write_folder(folder, dense=((6, "torch.nn.modules.linear.Identity"),))))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Without a dense layer, so that its head has no weights."""
    return lively(jp.load(write_folder(tmp_path_factory.mktemp("plain") / "m")))


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    """Two texts that belong together share a word out of eight; the one that does not has another."""
    random, rows = np.random.RandomState(0), []
    for number in range(72):
        word, other = WORDS[8 + number % 8], WORDS[8 + (number + 1) % 8]
        texts = [
            " ".join([*random.choice(WORDS[:8], 2), shown, *random.choice(WORDS[:8], 1)])
            for shown in (word, word, other)
        ]
        rows.append(dict(zip(("anchor", "positive", "negative"), texts, strict=True)))
    file = tmp_path_factory.mktemp("rows") / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return jp.tasks.pairs(file, validation=24)


def without_negatives(task):
    bare = lambda rows: tuple(row._replace(label=jp.tasks.Negatives()) for row in rows)  # noqa: E731
    return replace(task, train=bare(task.train), validation=bare(task.validation))


def test_a_pair_that_is_there_again_is_a_doubt(model, task):
    assert not any("there before" in doubt for doubt in prepare(model, task).warnings)
    twice = replace(task, train=(*task.train, *task.train[3:5]))
    assert any(doubt.startswith("2 of 50 training pairs were there before") for doubt in prepare(model, twice).warnings)


def test_a_scored_pair_that_is_trained_on_is_a_doubt(model, task):
    assert not any("pairs that are scored" in doubt for doubt in prepare(model, task).warnings)
    mixed = replace(task, validation=(*task.validation, *task.train[:2]))
    assert any(doubt.startswith("2 of 26 pairs that are scored") for doubt in prepare(model, mixed).warnings)


def test_pairs_of_one_text_twice_are_a_doubt(model, task):
    same = lambda rows: tuple(row._replace(pair=row.text + " ") for row in rows)  # noqa: E731
    some = replace(task, train=(*same(task.train[:8]), *task.train[8:]), validation=same(task.validation))
    said = " have the same text on both sides, such as "
    assert any(doubt.startswith("8 of 48 training pairs" + said) for doubt in prepare(model, some).warnings)
    assert any(doubt.startswith("24 of 24 pairs that are scored" + said) for doubt in jp.evaluate(model, some).warnings)
    assert not any(said in doubt for doubt in (*prepare(model, task).warnings, *jp.evaluate(model, task).warnings))


def test_groups_stay_in_one_row_and_every_pair_is_in_an_epoch_once(model, task):
    texts = prepare(model, task)
    assert texts.encoded.together == 3 and len(texts.encoded) == 144
    batches = batches_for(texts.encoded, model.architecture, TRAIN)
    for epoch in (batches(0), batches(1)):
        rows = [row[row >= 0] for batch in epoch for row in np.asarray(batch.index)]
        assert all(len(row) % 3 == 0 and np.all(row.reshape(-1, 3) - row[::3, None] == np.arange(3)) for row in rows)
        assert sorted(np.concatenate(rows).tolist()) == list(range(144))
    some = first_texts(batches(0), 15, 3)
    there = [np.asarray(batch.index)[np.asarray(batch.index) >= 0] for batch in some]
    assert [len(index) for index in there] == [36, 9] and all(
        np.all(index // 3 == index[::3].repeat(3) // 3) for index in there
    )


def test_the_loss_of_a_batch_is_that_of_its_vectors(model, task):
    texts = prepare(model, task)
    batch = batches_for(texts.encoded, model.architecture, TRAIN)(0)[0]
    rows = np.unique(np.asarray(batch.index)[np.asarray(batch.index) >= 0] // 3)
    groups = [(task.train[row].text, task.train[row].pair, task.train[row].label.texts[0]) for row in rows]
    anchors, positives, negatives = (jp.embed(model, list(side)) for side in zip(*groups, strict=True))
    candidates = np.concatenate([positives, negatives])
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)  # noqa: E731
    scores = SCALE * unit(anchors) @ unit(candidates).T
    known = {}
    for anchor, positive, _ in groups:
        known.setdefault(anchor, {anchor}).add(positive)
    texts_of = [group[1] for group in groups] + [group[2] for group in groups]
    for row, (anchor, positive, _) in enumerate(groups):
        wrong = [at for at, text in enumerate(texts_of) if at != row and text in known[anchor] | {positive}]
        scores[row, wrong] = -np.inf
    expected = np.mean(-np.log(np.diag(softmax(scores))))
    batch, goal = jax.tree.map(jnp.asarray, (batch, targets_of(batch, texts.targets)))
    loss = mean_loss(model.params, batch, goal, model.architecture)
    np.testing.assert_allclose(float(loss), expected, rtol=1e-4)  # float32


def test_pairs_are_learnt_and_scored_by_the_nearest_text(model, task):
    before = jp.evaluate(model, task)
    tuned = jp.finetune(model, task, TRAIN)
    notes = tuned.provenance.record["training"]
    assert notes["epochs"][-1]["loss"] < 0.6 * notes["epochs"][0]["loss"]
    assert notes["epochs"][0]["metric"] == "accuracy" and notes["pairs"] is False
    after = jp.evaluate(tuned, task)
    assert after.score > before.score and after.metrics["mrr"] > before.metrics["mrr"]
    anchors, sides = [row.text for row in task.validation], [(row.pair, *row.label.texts) for row in task.validation]
    searched = list(dict.fromkeys(text for side in sides for text in side))
    similar = jp.embed(tuned, anchors) @ jp.embed(tuned, searched).T
    right = [
        any(row.text == anchor and row.pair == searched[best] for row in task.validation)
        for anchor, best in zip(anchors, similar.argmax(axis=1), strict=True)
    ]
    assert after.score == pytest.approx(np.mean(right))


def test_similarities_are_learnt_from_a_teacher_of_another_width(model, plain, task):
    settings = replace(TRAIN, distill=1.0, epochs=2)
    tuned = jp.finetune(plain, without_negatives(task), settings, teacher=model)
    losses = [epoch["loss"] for epoch in tuned.provenance.record["training"]["epochs"]]
    assert losses[1] < losses[0]


def test_adapters_train_where_the_head_has_no_weights(plain, task):
    settings = jp.PruneLora(remove_heads=0.3, samples=16, high_blocks=1, high_rank=2, low_rank=1)
    tuned = jp.prune_lora(plain, task, settings, replace(TRAIN, epochs=1))
    assert sum(map(len, tuned.provenance.record["pruned_heads"])) == 2
    assert jp.embed(tuned, "the film").shape == (12,)


def test_rounds_of_pruning_and_training_read_whole_pairs(plain, task):
    tuned = jp.recap(
        plain, task, jp.Recap(remove=0.3, rounds=1, epochs_per_round=1, samples=8), replace(TRAIN, epochs=None)
    )
    assert tuned.report.removed.params > 0 and tuned.provenance.record["training"]["pairs"] is False


def test_what_takes_negatives_away_is_refused(plain, task):
    with pytest.raises(SettingsError, match="accumulate 2: a pair's negatives are the other texts of its step"):
        jp.finetune(plain, task, replace(TRAIN, accumulate=2))
    with pytest.raises(SettingsError, match="batch_size 1: a pair's negatives are the other pairs"):
        jp.finetune(plain, without_negatives(task), replace(TRAIN, batch_size=1))
    with pytest.raises(DataError, match="pairs needs an embedding head"):
        jp.finetune(plain.replace(architecture=replace(plain.architecture, head="none", embedding=None)), task, TRAIN)
    graded = replace(
        task, metric="spearman", beside=(), validation=tuple(row._replace(label=1.0) for row in task.validation)
    )
    with pytest.raises(DataError, match="validation pairs, and these have no scores"):
        jp.finetune(plain, graded, replace(TRAIN, holdout=8, epochs=1))


def test_similarities_score_and_do_not_train(plain, tmp_path, folder):
    """What would train such a model is said: pairs a model of vectors, a regression one that reads both texts."""
    rows = [{"sentence1": "the film", "sentence2": f"a {word}", "score": 2.5} for word in WORDS]
    for split in ("train", "validation"):
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = jp.tasks.sts(tmp_path)
    with pytest.raises(DataError, match=r"^sts scores models and trains none; .*the task pairs, .*min_score\)\.$"):
        jp.finetune(plain, task, TRAIN)
    reranker = jp.load(folder, head="classification", labels=("score",), problem="regression")
    with pytest.raises(DataError, match=r"^sts scores models and trains none; .*text-classification\)\.$"):
        jp.finetune(reranker, task, TRAIN)


def test_a_pruned_model_comes_back_towards_the_directions_of_the_dense_one(model):
    random = np.random.RandomState(3)
    texts = [" ".join(random.choice(WORDS, 6)) for _ in range(80)]
    calibration = jp.Calibration.of_texts(texts)
    small = jp.prune(model, calibration, jp.Budget(0.5), jp.Magnitude())
    back = jp.Recover(calibration, steps=20, batch_size=8, learning_rate=5e-3)(small, model)
    dense, before, after = (jp.embed(m, texts) for m in (model, small, back))
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)  # noqa: E731
    gaps = [1 - np.mean(np.sum(unit(dense) * unit(each), axis=1)) for each in (before, after)]
    assert gaps[1] < 0.6 * gaps[0]
    jax.tree.map(np.testing.assert_array_equal, small.params["embed"], back.params["embed"])
