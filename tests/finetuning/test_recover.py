"""A pruned model learns from the dense one, without labels."""

import json
import shutil
from dataclasses import replace

import jax
import numpy as np
import pytest

import jaxprune as jp
from jaxprune.errors import DataError, NumericalError, SettingsError
from jaxprune.finetuning import rates, recover as recovery
from jaxprune.finetuning.recover_checks import check_reading
from jaxprune.finetuning.recover_texts import split_off
from jaxprune.pruning.prune import check_recovery
from jaxprune.tasks.calibration import Calibration
from jaxprune.tokens.windows import encoded_for
from tests.finetuning.conftest import WORDS
from tests.helpers.decoders import language_model

SETTINGS = jp.Recover(steps=20, batch_size=8, learning_rate=5e-3)


@pytest.fixture(scope="module")
def texts():
    random = np.random.RandomState(3)
    return Calibration.of_texts([" ".join(random.choice(WORDS, 6)) for _ in range(80)])


@pytest.fixture
def pruned(model, texts):
    return jp.prune(model, texts, jp.Budget(0.5), jp.Magnitude())


def test_a_classifier_comes_closer_to_the_dense_one(model, pruned, texts):
    recovered = replace(SETTINGS, texts=texts)(pruned, model)
    notes = recovered.provenance.record["recovery"]
    gap = notes["gap"]
    assert gap["after"] == min(gap["looks"]) < 0.9 * gap["before"]
    assert (notes["texts"], notes["held_back"], notes["steps"]) == (72, 8, 20)
    assert recovered.architecture == pruned.architecture
    assert recovered.report.removed == pruned.report.removed
    np.testing.assert_array_equal(recovered.params["embed"]["token"], pruned.params["embed"]["token"])
    ids = np.random.RandomState(0).randint(4, 4 + len(WORDS), (16, 8))
    dense, before, after = (np.asarray(jp.logits(m, ids)) for m in (model, pruned, recovered))
    assert np.mean((after - dense) ** 2) < np.mean((before - dense) ** 2)


def test_made_up_texts_are_learnt_beside_the_given_ones_and_held_back_ones_stay(model, pruned, texts):
    plain, more = (replace(SETTINGS, texts=texts, variants=count)(pruned, model) for count in (0, 3))
    ours, theirs = (each.provenance.record["recovery"] for each in (more, plain))
    assert (ours["texts"], ours["held_back"], ours["settings"]["variants"]) == (72, 8, 3)
    assert ours["gap"]["before"] == theirs["gap"]["before"] > ours["gap"]["after"]
    assert ours["gap"]["looks"] != theirs["gap"]["looks"]


def test_variants_need_texts_that_are_read_whole(model, pruned, tmp_path):
    ids = Calibration.of_ids(np.full((20, 5), 7), None)
    with pytest.raises(SettingsError, match="variants are made of texts or pairs"):
        replace(SETTINGS, texts=ids, variants=1)(pruned, model)


def test_prune_recovers_every_result(model, texts):
    budgets, method = [jp.Budget(0.3), jp.Budget(0.5)], jp.Magnitude()
    together = jp.prune(model, texts, budgets, method, recover=SETTINGS)
    apart = [SETTINGS(small, model, texts) for small in jp.prune(model, texts, budgets, method)]
    for one, other in zip(together, apart, strict=True):
        jax.tree.map(np.testing.assert_array_equal, one.params, other.params)


@pytest.mark.parametrize(
    "settings, told",
    [
        ({"texts": Calibration.of_texts(["the film"] * 4)}, "4 texts are too few to recover on"),
        ({"next_tokens": 0.3}, "next_tokens .* has no effect on single_label"),
        ({"trainable": ("layer/*",)}, "pattern 'layer/.' matches no leaf"),
        ({"texts": Calibration.of_ids(np.full((40, 5), 7), None), "variants": 2}, "variants are made of texts"),
    ],
)
def test_what_would_end_a_recovery_is_known_before_anything_is_measured(model, texts, settings, told):
    heard = []
    with pytest.raises((DataError, SettingsError), match=told):
        jp.prune(
            model, texts, jp.Budget(0.5), jp.Magnitude(), recover=replace(SETTINGS, **settings), on_step=heard.append
        )
    assert not heard


def test_a_recovery_after_streamed_pruning_says_that_it_is_not_streamed(model, texts):
    small = jp.prune(model, texts, jp.Budget(0.5), jp.Magnitude(), stream=True, recover=replace(SETTINGS, steps=2))
    assert any(doubt.startswith("recovery is not streamed") for doubt in small.provenance.warnings)


def test_a_dense_model_in_host_memory_teaches_the_same(model, pruned, texts):
    alone = replace(SETTINGS, texts=texts, hidden=0.0, trainable=("layers/1/*",))
    gaps = [
        replace(alone, teacher_in=place)(pruned, model).provenance.record["recovery"]["gap"]
        for place in ("device", "host")
    ]
    assert gaps[0]["after"] < gaps[0]["before"]
    for name in ("before", "after", "looks"):
        np.testing.assert_allclose(gaps[0][name], gaps[1][name], rtol=5e-3)  # of 2e-5 nats, in float32


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_language_model_comes_closer_to_the_dense_one(family, tmp_path):
    random = np.random.RandomState(0)
    (tmp_path / "text.txt").write_text(" ".join(random.choice(WORDS, 1200)))
    dense = language_model(tmp_path / "model", family)
    windows = Calibration.of_running_text(tmp_path / "text.txt", 60, length=16)
    small = jp.prune(dense, windows, jp.Budget(0.4), jp.Magnitude())
    recovered = replace(SETTINGS, texts=windows, next_tokens=0.0)(small, dense)
    gap = recovered.provenance.record["recovery"]["gap"]
    assert gap["after"] < 0.8 * gap["before"]


def test_a_language_model_learns_the_next_tokens_beside_the_dense_one(tmp_path):
    (tmp_path / "text.txt").write_text("the film was great and the crew was bad " * 120)
    dense = language_model(tmp_path / "model", "llama")
    windows = Calibration.of_running_text(tmp_path / "text.txt", 60, length=16)
    small = jp.prune(dense, windows, jp.Budget(0.4), jp.Magnitude())
    losses = [
        jp.evaluate(replace(SETTINGS, texts=windows, next_tokens=weight)(small, dense), windows_task(tmp_path)).score
        for weight in (0.0, 0.9)
    ]
    assert losses[1] < 0.9 * losses[0]  # the dense one, which is random, knows nothing of the text


def test_a_language_model_takes_small_steps_and_holds_few_tokens_back(model, tmp_path):
    (tmp_path / "text.txt").write_text(" ".join(np.random.RandomState(0).choice(WORDS, 1200)))
    dense = language_model(tmp_path / "model", "llama")
    windows, _ = encoded_for(dense, Calibration.of_running_text(tmp_path / "text.txt", 60, length=16))
    long = replace(windows, ids=[np.tile(ids, 32) for ids in windows.ids])
    chosen = [
        jp.Recover().resolved(a, rows) for a in (dense.architecture, model.architecture) for rows in (windows, long)
    ]
    assert [(each.batch_size, each.hidden) for each in chosen] == [(32, 0.0), (1, 0.0), (32, 1.0), (32, 1.0)]
    given = jp.Recover(batch_size=7, hidden=0.5).resolved(dense.architecture, long)
    assert (given.batch_size, given.hidden) == (7, 0.5)
    assert [each.next_tokens for each in chosen] == [0.5, 0.5, None, None]
    with pytest.raises(SettingsError, match="next_tokens \\(0.3\\) has no effect on single_label"):
        jp.Recover(next_tokens=0.3).resolved(model.architecture, windows)
    assert jp.Recover(teacher_in="host").resolved(model.architecture, windows).hidden == 0.0
    many = long.picked([0] * 400)
    backs = [split_off(many, a, 0)[0] for a in (dense.architecture, model.architecture)]
    assert [len(back) for back in backs] == [16, 40]  # of 512 tokens each


@pytest.mark.parametrize("problem, labels", [("multi_label", ("a", "b", "c")), ("regression", ("x",))])
def test_heads_of_other_kinds_recover(folder, texts, problem, labels):
    dense = jp.load(folder, head="classification", labels=labels, problem=problem)
    small = jp.prune(dense, texts, jp.Budget(0.5), jp.Magnitude())
    gap = replace(SETTINGS, texts=texts)(small, dense).provenance.record["recovery"]["gap"]
    assert gap["after"] < gap["before"]


def test_the_best_rate_is_looked_for_upwards_and_downwards():
    def tried(ideal):
        return rates.lowest(lambda rate: abs(np.log(rate / ideal)))

    def best(gaps):
        return min(gaps, key=gaps.__getitem__)

    assert best(tried(3e-3)) == pytest.approx(3.2e-3)
    assert best(tried(1.2e-5)) == pytest.approx(1.25e-5)
    assert len(tried(2e-4)) == 3
    with pytest.raises(NumericalError, match="no learning rate"):
        rates.lowest(lambda rate: float("inf"))


def test_a_rate_that_helps_enough_is_raised_but_not_lowered():
    gaps = {8e-4: 3.0, 2e-4: 0.9, 5e-5: 0.8, 1.25e-5: 0.85}
    assert [*rates.lowest(gaps.__getitem__, enough=1.0)] == [2e-4, 8e-4]
    assert [*rates.lowest(gaps.__getitem__)] == [2e-4, 8e-4, 5e-5, 1.25e-5]
    gaps = {8e-4: 3.0, 2e-4: 2.0, 5e-5: 0.9, 1.25e-5: 0.8}
    assert [*rates.lowest(gaps.__getitem__, enough=1.0)] == [2e-4, 8e-4, 5e-5]
    assert min(rates.lowest(lambda rate: rate, enough=0.0)) < 4e-6  # none of them
    gaps = {2e-4: 0.9, 8e-4: 0.7, 3.2e-3: 1.2}
    assert [*rates.lowest(gaps.__getitem__, enough=1.0)] == [2e-4, 8e-4, 3.2e-3]


def test_the_rate_is_chosen_on_texts_held_back(model, pruned, texts):
    notes = replace(SETTINGS, texts=texts, learning_rate=None, steps=10)(pruned, model).provenance.record["recovery"]
    assert notes["rates"][f"{notes['learning_rate']:g}"] == min(notes["rates"].values())
    assert len(notes["rates"]) >= 3


def test_steps_are_never_fewer_than_were_asked_for(model, pruned, texts):
    few = replace(SETTINGS, texts=texts, learning_rate=1e-4)
    told = [replace(few, steps=steps)(pruned, model).provenance.record["recovery"]["steps"] for steps in (3, 11, 25)]
    assert told == [3, 12, 27]


def test_what_brings_it_no_closer_leaves_it_as_it_was(model, pruned, texts):
    kept = replace(SETTINGS, texts=texts, learning_rate=3.0)(pruned, model)
    jax.tree.map(np.testing.assert_array_equal, kept.params, pruned.params)
    assert any("no closer" in warning for warning in kept.provenance.warnings)


def test_a_run_that_gets_no_better_stops(model, pruned, texts):
    notes = replace(SETTINGS, texts=texts, learning_rate=1.0, steps=40)(pruned, model).provenance.record["recovery"]
    assert notes["steps"] <= 4 * (recovery.PATIENCE + 3)


def test_what_cannot_be_meant_is_refused(model, pruned, texts, folder):
    with pytest.raises(DataError, match="no texts to recover on"):
        SETTINGS(pruned, model)
    with pytest.raises(SettingsError, match="recover is True"):
        check_recovery(True)
    with pytest.raises(
        SettingsError, match=r"^recover is Calibration\(.{1,60}; pass jaxprune.Recover\(texts, steps=500\)"
    ):
        check_recovery(texts)
    with pytest.raises(DataError, match="4 texts are too few"):
        SETTINGS(pruned, model, Calibration.of_texts(["the film"] * 4))
    with pytest.raises(SettingsError, match="texts is a list"):
        recovery.check_calibration(["the film"])
    with pytest.raises(SettingsError, match="hidden must not be negative"):
        jp.Recover(hidden=-1.0)
    with pytest.raises(SettingsError, match="hidden 1 compares hidden states of every layer, which a model in host"):
        jp.Recover(teacher_in="host", hidden=1.0)
    with pytest.raises(SettingsError, match="the pruned model's labels is"):
        replace(SETTINGS, texts=texts)(pruned, jp.load(folder, labels=("a", "b")))
    with pytest.raises(SettingsError, match="predicts nothing"):
        bare = jp.load(folder, head="none")
        replace(SETTINGS, texts=texts)(bare, bare)


def test_a_dense_model_that_reads_other_token_ids_is_refused(pruned, texts, folder, tmp_path):
    other = shutil.copytree(folder, tmp_path / "other")
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    ids = tokenizer["model"]["vocab"]
    ids.update({word: 4 + number for number, word in enumerate(reversed(WORDS))})
    first = texts.examples[0].text.split()[0]
    mine, theirs = 4 + WORDS.index(first), ids[first]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    told = (
        rf"the dense model must read what the pruned one reads: token 1 of training text 0 has the id {theirs} "
        rf"\('{first}'\) for the teacher, {mine} \('{first}'\) for the model"
    )
    with pytest.raises(SettingsError, match=told):
        SETTINGS(pruned, jp.load(other), texts)


def test_the_same_tokens_of_another_folder_are_taken_and_what_cannot_be_compared_is_a_doubt(
    pruned, texts, folder, tmp_path
):
    copied, bare = (shutil.copytree(folder, tmp_path / name) for name in ("copied", "bare"))
    (bare / "tokenizer.json").unlink()
    dense = jp.load(copied)
    encoded, _ = encoded_for(dense, texts)
    assert check_reading(pruned, dense, texts, encoded) == ()
    moved = pruned.replace(provenance=replace(pruned.provenance, source=str(bare)))
    assert "could not be checked" in check_reading(moved, dense, texts, encoded)[0]


def test_models_that_are_swapped_or_not_finite_are_named(model, pruned, texts):
    with pytest.raises(SettingsError, match="layer 0 of the pruned model has . heads, of the dense one .: .* swap the"):
        SETTINGS(model, pruned, texts)
    for ours, theirs, name in ((pruned, spoilt(model), "dense"), (spoilt(pruned), model, "pruned")):
        with pytest.raises(NumericalError, match=f"tensor head.bias of the {name} model holds NaN or Inf"):
            SETTINGS(ours, theirs, texts)


def test_a_dense_model_whose_labels_are_in_another_order_is_refused(pruned, texts, folder):
    with pytest.raises(SettingsError, match=r"the pruned model's labels is \('no', 'yes'\), the dense one's \('yes', "):
        SETTINGS(pruned, jp.load(folder, labels=("yes", "no")), texts)


def windows_task(folder):
    return jp.tasks.text(folder / "text.txt", length=16, windows=20)


def spoilt(model: jp.Model) -> jp.Model:
    head = {**model.params["head"], "bias": np.full(2, np.nan, np.float32)}
    return model.replace(params={**model.params, "head": head})


def test_that_all_of_a_conversation_is_learnt_is_a_doubt(tmp_path):
    line = json.dumps({"prompt": "the film was", "completion": " good"}) + "\n"
    (tmp_path / "chat.jsonl").write_text(line * 80)
    dense = language_model(tmp_path / "model", "llama")
    texts = jp.tasks.chat(tmp_path / "chat.jsonl", validation=0.1).calibration(40)
    small = jp.prune(dense, texts, jp.Budget(0.4), jp.Magnitude())
    recovered = replace(SETTINGS, texts=texts, steps=2)(small, dense)
    assert any("every token of the conversations" in said for said in recovered.provenance.warnings)
    silent = replace(SETTINGS, texts=texts, steps=2, next_tokens=0.0)(small, dense)
    assert not any("every token of the conversations" in said for said in silent.provenance.warnings)
