"""Encoders with switches of their own: pruned, tuned and written as others are."""

from typing import Any

import numpy as np
import pytest

import jaxprune as jp
from jaxprune.finetuning.lora import Lora
from tests.finetuning.conftest import WORDS, task, write_tokenizer  # noqa: F401  (a fixture)
from tests.helpers import tiny

METHODS = {"kprune": jp.KPrune(), "published": jp.KPrune.presets()["published"], "fisher": jp.Fisher()}
FAMILIES = {
    "electra": ({}, "kprune"),  # narrow embeddings
    "mpnet": ({}, "kprune"),  # relative positions
    "deberta-v2": ({"share_att_key": True}, "kprune"),  # distances, projected as tokens are
    "mpnet, as published": ({}, "published"),
    "mpnet, by gates": ({}, "fisher"),
}


@pytest.fixture(scope="module")
def model_of(tmp_path_factory):
    def make(family: str, **changes: Any) -> jp.Model:
        folder = tmp_path_factory.mktemp("base") / "model"
        config = tiny.config(family, id2label={"0": "no", "1": "yes"}, vocab_size=4 + len(WORDS), **changes)
        tiny.write(folder, config, {name: 0.5 * tensor for name, tensor in tiny.tensors(config).items()})
        write_tokenizer(folder)
        return jp.load(folder)

    return make


def table(model: jp.Model, layer: int) -> np.ndarray:
    return np.asarray(model.params["layers"][layer]["attention"]["relative"]["table"])


def distances(model: jp.Model, layer: int) -> np.ndarray:
    return np.asarray(model.params["layers"][layer]["attention"]["distances"]["table"])


@pytest.mark.parametrize("name", FAMILIES)
def test_a_method_prunes_to_its_budget(name, model_of, task, tmp_path):  # noqa: F811
    model = model_of(name.split(",")[0], **FAMILIES[name][0])
    small = jp.prune(model, task.calibration(16), jp.Budget(0.4, cost="params"), METHODS[FAMILIES[name][1]])
    assert small.report.removed.params >= 0.4 and small.report.masked_vs_cut < 1e-5
    again = jp.load(jp.save(small, tmp_path / "small"))
    assert again.architecture == small.architecture
    ids = np.arange(4, 20).reshape(2, 8)
    np.testing.assert_array_equal(jp.logits(again, ids), jp.logits(small, ids))
    if "mpnet" in name:
        columns = small.architecture.attention.columns  # type: ignore[union-attr]
        assert columns == tuple(layer.heads for layer in small.report.kept)
        for number, kept in enumerate(columns):
            np.testing.assert_array_equal(table(small, number), table(model, 0)[:, list(kept)])


TUNED = {
    "full": lambda base, texts: jp.finetune(base, texts, jp.Train(epochs=1)),
    "lora": lambda base, texts: jp.finetune(base, texts, jp.Train(epochs=1), lora=Lora(rank=2)),
    "prune-lora": lambda base, texts: jp.prune_lora(base, texts, jp.PruneLora(remove_neurons=0.3), jp.Train(epochs=1)),
    "recap": lambda base, texts: jp.recap(base, texts, jp.Recap(rounds=2, remove=0.3, freeze=0.5)),
}


@pytest.mark.parametrize(("family", "way"), [*(("mpnet", way) for way in TUNED), ("deberta-v2", "prune-lora")])
def test_tuning_a_model_with_relative_positions(family, way, model_of, task, tmp_path):  # noqa: F811
    tuned = TUNED[way](model_of(family, **({"share_att_key": True} if family == "deberta-v2" else {})), task)
    tuned = getattr(tuned, "model", tuned)
    assert np.isfinite(np.asarray(jp.logits(tuned, np.arange(4, 20).reshape(2, 8)))).all()
    again = jp.load(jp.save(tuned, tmp_path / "tuned"))
    assert again.architecture == tuned.architecture
    if family == "deberta-v2":
        np.testing.assert_allclose(distances(tuned, 0), distances(tuned, 1), rtol=1e-6)
    elif all(size.groups == 3 for size in tuned.architecture.layers):
        np.testing.assert_allclose(table(tuned, 0), table(tuned, 1), rtol=1e-6)
