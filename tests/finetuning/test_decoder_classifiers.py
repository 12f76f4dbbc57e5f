"""Training classifiers on decoders: whole, by adapters, while pruned; and adapters whose projections share a module."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

import jaxprune as jp
from jaxprune.errors import CheckpointError, DataError, SettingsError
from jaxprune.finetuning.losses import mean_loss
from jaxprune.finetuning.recap import Recap
from jaxprune.model.padded import plain_batch
from jaxprune.tokens.packing import Encoded, pack
from tests.helpers.decoders import classifier

IDS = np.arange(14).reshape(2, 7) % 20 + 3
TRAINING = jp.Train(epochs=3, batch_size=16, learning_rate=1e-2)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Tiny ones, by family."""
    made = {}
    for family in ("llama", "gpt2"):
        folder = tmp_path_factory.mktemp(family) / "model"
        made[family] = classifier(folder, family)
    return made


def test_the_loss_falls_and_the_result_is_scored(models, task):
    tuned = jp.finetune(models["llama"], task, TRAINING)
    record = tuned.provenance.record["training"]
    losses = [epoch["loss"] for epoch in record["epochs"]]
    assert losses[-1] < 0.7 * losses[0]
    kept = record["epochs"][record["kept_epoch"]]
    assert jp.evaluate(tuned, task).score == kept["score"] > 0.8


def test_a_text_trains_as_it_does_alone(models, task):
    """One step on packed texts is one step on texts of a row each: the head reads every text's own last token."""
    model, random = models["llama"], np.random.RandomState(0)
    ids, goals = random.randint(4, 20, (4, 6)).astype(np.int32), jnp.array([0, 1, 1, 0])
    (packed,) = pack(Encoded(list(ids), list(0 * ids)), model.architecture, rows=1, length=24)
    of = goals[np.maximum(packed.index, 0)]
    together = mean_loss(model.params, jax.tree.map(jnp.asarray, packed), jnp.asarray(of), model.architecture)
    alone = mean_loss(model.params, plain_batch(model.architecture, ids), goals[:, None], model.architecture)
    np.testing.assert_allclose(together, alone, rtol=1e-6)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_adapters_of_a_classifier_come_back_from_their_folder(models, family, task, tmp_path):
    model = models[family]
    lora = jp.Lora(rank=3, projections=("q", "v", "o", "up"), rank_pattern=("*/v=2",), alpha_pattern=("*/q=5",))
    tuned = jp.finetune(model, task, replace(TRAINING, epochs=1), lora=lora, adapter_out=tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["task_type"] == "SEQ_CLS" and "score" in config["modules_to_save"]
    tensors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert tensors["base_model.model.score.weight"].shape == (2, model.architecture.hidden)
    if family == "gpt2":  # q and v lie in one module, where k has no rank of its own
        name = "base_model.model.transformer.h.0.attn.c_attn.lora_{}.weight"
        assert tensors[name.format("A")].shape == (5, 12) and tensors[name.format("B")].shape == (36, 5)
        assert not tensors[name.format("B")][12:24].any() and config["fan_in_fan_out"]
    again = jp.load_adapter(model, tmp_path / "adapter")
    np.testing.assert_allclose(jp.logits(again, IDS), jp.logits(tuned, IDS), rtol=0, atol=1e-5)
    if family == "llama":  # GPT-2's two scalings are now one
        with pytest.raises(CheckpointError, match="has the adapter of .* in it already"):
            jp.load_adapter(tuned, tmp_path / "adapter")


def test_a_module_that_holds_several_projections_trains_or_is_adapted(models, task, tmp_path):
    lora = jp.Lora(projections=("q",), train=("layers/0/attention/v/*", "head/*"))
    with pytest.raises(SettingsError, match="attention/v/.* trains and layers/0/attention/q has an adapter"):
        jp.finetune(models["gpt2"], task, TRAINING, lora=lora, adapter_out=tmp_path / "adapter")
    lora = jp.Lora(projections=("up",), train=("layers/0/attention/v/*", "head/*"))
    tuned = jp.finetune(models["gpt2"], task, replace(TRAINING, epochs=1), lora=lora, adapter_out=tmp_path / "adapter")
    tensors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert tensors["base_model.model.transformer.h.0.attn.c_attn.weight"].shape == (12, 36)  # as its files have it
    again = jp.load_adapter(models["gpt2"], tmp_path / "adapter")
    np.testing.assert_allclose(jp.logits(again, IDS), jp.logits(tuned, IDS), rtol=0, atol=1e-5)


def test_prune_lora_and_recap(models, task, tmp_path):
    model, training = models["llama"], replace(TRAINING, epochs=1)
    small = jp.prune_lora(
        model, task, jp.PruneLora(remove_heads=0.5, samples=16, high_blocks=1, high_rank=4, low_rank=2), training
    )
    record = small.provenance.record
    assert record["masked_vs_cut"] < 1e-5 and sum(size.groups for size in small.architecture.layers) == 3
    jp.save(small, tmp_path / "small")
    np.testing.assert_array_equal(jp.logits(jp.load(tmp_path / "small"), IDS), jp.logits(small, IDS))
    settings = Recap(rounds=1, remove=0.3, freeze=0.5, samples=16)
    tuned = jp.recap(model, task, settings, jp.Train(batch_size=16, learning_rate=1e-2))
    record = tuned.provenance.record
    assert record["masked_vs_cut"] < 1e-5 and 0.25 <= record["removed"]["params"] < 0.65
    assert jp.evaluate(tuned, task).score == record["training"]["epochs"][record["training"]["kept_epoch"]]["score"]


def test_a_teacher_reads_texts_where_its_own_head_does(models, task):
    """Two decoders of which one passes over [SEP], the token that ends every text."""
    student = models["llama"]
    teacher = student.replace(architecture=replace(student.architecture, pool_pad=3))
    assert not np.allclose(jp.logits(teacher, [[5, 6, 3]]), jp.logits(student, [[5, 6, 3]]))
    training = replace(TRAINING, epochs=1, distill=1.0, learning_rate=1e-9)
    (same,) = jp.finetune(student, task, training, teacher=student).provenance.record["training"]["epochs"]
    (other,) = jp.finetune(student, task, training, teacher=teacher).provenance.record["training"]["epochs"]
    assert same["loss"] < 1e-6 < 1e-3 < other["loss"]


def test_labels_that_do_not_fit(tmp_path, task):
    three = classifier(tmp_path / "model", "opt", ("no", "yes", "perhaps"))
    words = replace(task, labels=("no", "yes", "often", "never"))
    with pytest.raises(DataError, match="model"):
        jp.finetune(three, words, TRAINING)
    value = jp.load(tmp_path / "model", labels=1)
    assert value.architecture.problem == "regression"
    with pytest.raises(DataError, match="is a single_label task, the model's head is regression"):
        jp.evaluate(value, task)
