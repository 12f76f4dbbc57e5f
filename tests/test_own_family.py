"""A family of one's own, with public names alone: a row, and then everything that other models can do."""

import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import jaxprune as jp
from tests.helpers import tiny

BERT = jp.FAMILIES["bert"]
# As BERT, but for names: `ours.blocks.0…`, a width that config.json calls `dim`, and a head of its own.
OURS = jp.Family(
    model_type="ours",
    classes="Ours",
    prefix="ours.",
    keys={**BERT.keys, "hidden": "dim"},
    defaults=BERT.defaults,
    modules={ours: theirs.replace("encoder.layer", "blocks") for ours, theirs in BERT.modules.items()},
    heads={"classification": jp.HeadModules(output="scorer", pooler="pool.dense", activation="tanh")},
)
TEXTS = jp.Calibration.of_ids(np.random.RandomState(0).randint(30, size=(64, 8)), None)


@pytest.fixture
def folder(tmp_path):
    config = tiny.config("bert")
    named = tiny.tensors(config)
    dim = config.pop("hidden_size")
    changes = (("bert.pooler.", "pool."), ("bert.", "ours."), ("encoder.layer", "blocks"), ("classifier.", "scorer."))
    for old, new in changes:
        named = {name.replace(old, new): tensor for name, tensor in named.items()}
    config |= {"model_type": "ours", "architectures": ["OursForSequenceClassification"], "dim": dim}
    return tiny.write(tmp_path / "model", config, named)


def logits(model):
    return np.asarray(jp.logits(model, np.arange(8)[None] + 3))


def test_a_family_of_ones_own_is_read_pruned_saved_and_exported(folder, tmp_path):
    with pytest.raises(jp.JaxpruneError, match=r"has model_type 'ours', supported are .* handed to jaxprune.load"):
        jp.load(folder)
    model = jp.load(folder, family=OURS)
    assert model.architecture.family == "ours"
    bert = tiny.random_model(tiny.config("bert"))  # the same numbers
    np.testing.assert_array_equal(logits(model), logits(bert))
    budget = jp.Budget(0.2, cost="params", uniform=True, keep_heads=True)
    pruned = jp.magnitude(model, TEXTS, budget)
    jp.save(pruned, tmp_path / "small")
    again = jp.load(tmp_path / "small")
    np.testing.assert_array_equal(logits(again), logits(pruned))
    jp.export(again, tmp_path / "exported")
    assert json.loads((tmp_path / "exported" / "config.json").read_text())["model_type"] == "ours"
    assert "ours.blocks.0.output.dense.weight" in load_file(tmp_path / "exported" / "model.safetensors")
    np.testing.assert_array_equal(logits(jp.load(tmp_path / "exported", family=OURS)), logits(pruned))
    five = jp.load(tmp_path / "small", labels=5, family=OURS)
    assert logits(five).shape[-1] == 5 and any("new, random ones" in entry for entry in five.provenance.warnings)


def test_adapters_of_a_family_of_ones_own(folder, tmp_path):
    model = jp.load(folder, family=OURS)
    factors = {
        f"base_model.model.ours.blocks.0.attention.self.query.lora_{name}.weight": np.full(shape, 0.1, np.float32)
        for name, shape in (("A", (2, 12)), ("B", (12, 2)))
    }
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    save_file(factors, adapter / "adapter_model.safetensors")
    (adapter / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["query"], "task_type": "SEQ_CLS",
                    "base_model_name_or_path": "somewhere/ours"})
    )  # fmt: skip
    assert not np.array_equal(logits(jp.load_adapter(model, adapter)), logits(model))
    with pytest.raises(
        jp.JaxpruneError, match=r"PEFT adapter and no model; load its base model \(somewhere/ours\), and"
    ):
        jp.load(adapter)


@pytest.mark.parametrize(
    "row, message",
    [
        (replace(OURS, keys={"vocab": "vocab_size"}), "family ours has no hidden, layers, .* in its keys; name them"),
        (replace(OURS, modules={}), "family ours has no embed.token, layers.{}.attention.q, .* in its modules"),
        (replace(OURS, keys={**OURS.keys, "pre_norm": "pre"}), "family ours has no pre in its defaults"),
        (replace(OURS, heads={"causal_lm": jp.HeadModules(output="x")}), "family ours has no tied in its keys"),
        (replace(OURS, switches={"colour": 1}), "switches have colour, which no architecture has"),
        (
            replace(OURS, heads={"painting": jp.HeadModules(output="x")}),
            "heads have painting, which is no kind of head",
        ),
        (replace(OURS, model_type="bert"), "family bert is known already, with another row; give yours a model_type"),
        (replace(OURS, model_type="theirs"), "has model_type 'ours', .* row that was handed in is of 'theirs'"),
        (replace(OURS, model_type="yours", switches={"gated": True}), "'ours', and the row"),
    ],
)
def test_a_row_that_does_not_do_is_named(folder, row, message):
    with pytest.raises(jp.JaxpruneError, match=message) as caught:
        jp.load(folder, family=row)
    assert "\n" not in str(caught.value)


def test_a_module_that_the_row_forgot_is_named(folder):
    (folder / "config.json").write_text(
        json.dumps(json.loads((folder / "config.json").read_text()) | {"model_type": "gated"})
    )
    row = replace(OURS, model_type="gated", switches={"gated": True})
    with pytest.raises(jp.JaxpruneError, match=r"family gated does not name layers.{}.feed_forward.gate, which its"):
        jp.load(folder, family=row)


def test_what_needs_the_row_says_so(folder, tmp_path):
    """In a process that was not told of it: another one, for which a name of its own stands here."""
    jp.save(jp.load(folder, family=OURS), tmp_path / "saved")
    manifest = tmp_path / "saved" / "jaxprune.json"
    manifest.write_text(manifest.read_text().replace('"ours"', '"unheard_of"'))
    model = jp.load(tmp_path / "saved")
    assert model.architecture.family == "unheard_of"
    for needs in (
        lambda: jp.load(tmp_path / "saved", labels=5),
        lambda: jp.export(model, tmp_path / "out"),
    ):
        with pytest.raises(jp.JaxpruneError, match="unheard_of"):
            needs()
