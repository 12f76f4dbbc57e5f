"""Folders whose layers differ, run by transformers through the modelling file that was written into them."""

import json
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch", reason="live parity needs torch: make parity installs it")

import torch
import transformers

import jaxprune as jp
from jaxprune.checkpoint.uneven import MODELLING
from jaxprune.model import logits
from jaxprune.pruning.cut import cut
from jaxprune.runtime.decode import generate_ids
from tests.parity.reference import CLOSE, DECODERS, PAIRS, cases, compared, random_reference, reference_logits

pytestmark = pytest.mark.filterwarnings("ignore")  # those of torch and transformers are not ours to fix

AUTO = {
    "classification": "AutoModelForSequenceClassification",
    "token_classification": "AutoModelForTokenClassification",
    "question_answering": "AutoModelForQuestionAnswering",
    "causal_lm": "AutoModelForCausalLM",
    "masked_lm": "AutoModelForMaskedLM",
    "none": "AutoModel",
}
# Layers that lost some of their heads, all of them, and all neurons.
KEPT = ([0, 2], [], [], [1, 2, 5])
GROUPS = ([1], [], [], [1, 2, 5])
SHARED = ([0, 1, 2], [], [0, 1, 2], [1, 2, 5])  # where layers share what belongs to heads, or their number


@pytest.fixture(autouse=True)
def code_goes_to_a_folder_of_the_test(tmp_path, monkeypatch):
    """transformers copies files that it is to run into the user's cache, and remembers what it has run."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", tmp_path / "modules")


def uneven(folder, family, head, kept=None, seed=7, biases=False, **changes):
    reference = random_reference(family, head, seed=seed, **changes)
    reference.save_pretrained(folder)
    model = jp.load(folder)
    by_family = GROUPS if hasattr(reference.config, "num_key_value_heads") else KEPT
    kept = kept or (SHARED if family in ("mpnet", "olmo2", "phi3") else by_family)
    counts = [count for size in model.architecture.layers for count in (size.groups, size.neurons)]
    model = cut(model, [np.isin(np.arange(count), units) for count, units in zip(counts, kept, strict=True)])
    return with_output_biases(model) if biases else model


def with_output_biases(model):
    """As a refit with an intercept leaves it."""
    bias = {"bias": np.linspace(-1, 1, model.architecture.hidden, dtype=np.float32)}
    layers = [
        {
            "attention": {**layer["attention"], "o": layer["attention"]["o"] | bias},
            "feed_forward": {**layer["feed_forward"], "down": layer["feed_forward"]["down"] | bias},
        }
        for layer in model.params["layers"]
    ]
    architecture = replace(model.architecture, output_bias=True, down_bias=True)
    return model.replace(architecture=architecture, params={**model.params, "layers": layers})


def opened(folder, head, **settings):
    auto = getattr(transformers, AUTO[head])
    return auto.from_pretrained(folder, trust_remote_code=True, **settings)


def assert_same(model, theirs, names=("right", "types")):
    family = model.architecture.family
    inputs = cases(family)
    for name in inputs.keys() & {*names}:
        expected, got = np.asarray(logits(model, **inputs[name])), reference_logits(theirs.eval(), inputs[name])
        if got.ndim == 3:
            got, expected = got[compared(inputs[name], family)], expected[compared(inputs[name], family)]
        np.testing.assert_allclose(got, expected, **CLOSE, err_msg=name)


@pytest.mark.parametrize(("family", "head"), PAIRS)
def test_every_family_and_head_computes_the_same(tmp_path, family, head):
    """Output biases that the class of transformers has no place for, too, of language models."""
    model = uneven(tmp_path / "dense", family, head, biases=head == "causal_lm")
    written = jp.export(model, tmp_path / "small")
    theirs, info = opened(tmp_path / "small", head, output_loading_info=True)
    drawn = {"pooler.dense.weight", "pooler.dense.bias"}  # of an encoder without a head: said by the export
    assert info["missing_keys"] <= drawn and not any(info[key] for key in info if key != "missing_keys"), info
    assert written.config["architectures"] == [type(theirs).__name__]
    assert isinstance(theirs, getattr(transformers, type(theirs).__name__.removeprefix("Pruned")))
    assert theirs.config.model_type == family
    assert_same(model, theirs)
    assert_same(model, opened(tmp_path / "small", head, attn_implementation="eager"), ("right",))


@pytest.mark.parametrize("family", DECODERS)
def test_greedy_tokens_are_ours(tmp_path, family):
    model = uneven(tmp_path / "dense", family, "causal_lm", biases=True)
    jp.export(model, tmp_path / "small")
    theirs = opened(tmp_path / "small", "causal_lm").eval()
    ids, mask = torch.tensor([[5, 9, 3, 12], [0, 0, 7, 4]]), torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]])
    settings = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    expected = generate_ids(model, [[5, 9, 3, 12], [7, 4]], max_new_tokens=8, end_ids=()).ids.tolist()
    for cache in ("dynamic", "static"):  # the second is sized by per_layer_config
        said = theirs.generate(input_ids=ids, attention_mask=mask, cache_implementation=cache, **settings)
        assert said[:, 4:].tolist() == expected


@pytest.mark.parametrize(
    ("family", "head"), [("bert", "classification"), ("gpt2", "causal_lm"), ("llama", "causal_lm")]
)
def test_saved_by_transformers_it_is_the_same_for_both(tmp_path, family, head):
    model = uneven(tmp_path / "dense", family, head, biases=family == "llama")
    jp.export(model, tmp_path / "small")
    theirs = opened(tmp_path / "small", head)
    theirs.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / MODELLING).read_bytes() == (tmp_path / "small" / MODELLING).read_bytes()
    again = opened(tmp_path / "again", head)
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    assert_same(model, again, ("right",))
    ours = jp.load(tmp_path / "again")
    assert ours.architecture == jp.load(tmp_path / "small").architecture
    assert_same(ours, again, ("right",))
    assert not [entry for entry in ours.provenance.warnings if MODELLING in entry]


def test_a_body_is_opened_from_a_folder_with_a_head(tmp_path):
    """As sentence-transformers does it."""
    model = uneven(tmp_path / "dense", "bert", "classification")
    jp.export(model, tmp_path / "small")
    assert type(opened(tmp_path / "small", "none")).__name__ == "PrunedBertModel"
    assert_same(jp.load(tmp_path / "small", head="none"), opened(tmp_path / "small", "none"))


@pytest.mark.parametrize("family", ["bert", "opt", "llama"])
def test_without_the_file_transformers_says_so(tmp_path, family):
    head = "classification" if family == "bert" else "causal_lm"
    jp.export(uneven(tmp_path / "dense", family, head), tmp_path / "small")
    with pytest.raises(RuntimeError, match="mismatch"):
        getattr(transformers, AUTO[head]).from_pretrained(tmp_path / "small")
    reference = getattr(transformers, json.loads((tmp_path / "dense" / "config.json").read_text())["architectures"][0])
    with pytest.raises(RuntimeError, match="mismatch"):
        reference.from_pretrained(tmp_path / "small")


def test_a_model_of_heads_that_no_llama_config_takes(tmp_path):
    kept = ([0, 1, 2, 3, 5], [3], [0, 1, 2, 3, 5], [1, 2])
    sizes = {"num_attention_heads": 6, "num_key_value_heads": 6}
    model = uneven(tmp_path / "dense", "llama", "causal_lm", kept=kept, **sizes)
    written = jp.export(model, tmp_path / "small")
    assert "no per_layer_config" in written.warnings[0]
    assert_same(model, opened(tmp_path / "small", "causal_lm"))


def test_it_is_drawn_anew_and_trained(tmp_path):
    """A config alone gives a random model of those sizes; a step changes everything but units of zeros, which stay."""
    model = uneven(tmp_path / "dense", "bert", "classification")
    jp.export(model, tmp_path / "small")
    config = transformers.AutoConfig.from_pretrained(tmp_path / "small")
    auto = transformers.AutoModelForSequenceClassification
    drawn = auto.from_config(config, trust_remote_code=True).bert.encoder.layer[1]
    assert 0.01 < float(drawn.intermediate.dense.weight.std()) < 0.03  # initializer_range
    theirs = opened(tmp_path / "small", "classification").train()
    theirs.gradient_checkpointing_enable()
    optimiser = torch.optim.AdamW(theirs.parameters(), lr=1e-3)
    ids = torch.arange(2, 16).reshape(2, 7)
    before = {name: tensor.clone() for name, tensor in theirs.state_dict().items()}
    theirs(input_ids=ids, attention_mask=torch.ones_like(ids), labels=torch.tensor([0, 1])).loss.backward()
    optimiser.step()
    zeros = ("1.attention.self.", "1.attention.output.dense.weight", "0.intermediate.", "0.output.dense.weight")
    for name, tensor in theirs.named_parameters():
        if not name.endswith("self.key.bias"):  # which a softmax over keys does not see, but for rounding
            still = any(f"encoder.layer.{place}" in name for place in zeros)
            assert torch.equal(tensor, before[name]) == still, name


def test_it_trains_in_the_trainer(tmp_path):
    pytest.importorskip("accelerate", reason="the Trainer of transformers needs it")
    jp.export(uneven(tmp_path / "dense", "llama", "causal_lm", biases=True), tmp_path / "small")
    theirs = opened(tmp_path / "small", "causal_lm")
    rows = [{"input_ids": list(range(3, 9)), "labels": list(range(3, 9))}] * 4
    arguments = transformers.TrainingArguments(
        tmp_path / "run", max_steps=2, report_to=[], use_cpu=True, save_strategy="no", disable_tqdm=True
    )
    trainer = transformers.Trainer(theirs, arguments, train_dataset=rows)
    assert np.isfinite(trainer.train().training_loss)
    trainer.save_model(tmp_path / "trained")
    assert_same(jp.load(tmp_path / "trained"), opened(tmp_path / "trained", "causal_lm"), ("right",))
    assert not np.array_equal(
        jp.load(tmp_path / "trained").params["layers"][1]["feed_forward"]["up"]["kernel"],
        jp.load(tmp_path / "small").params["layers"][1]["feed_forward"]["up"]["kernel"],
    )
