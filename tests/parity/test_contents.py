"""Folders that contradict themselves, as transformers on torch reads them; run by `make parity`."""

import json

import numpy as np
import pytest

pytest.importorskip("torch", reason="live parity needs torch: make parity installs it")

import torch
from safetensors.torch import load_file, save_file

from jaxprune.checkpoint import load
from jaxprune.model import logits
from tests.parity.reference import CLOSE, cases, random_reference, reference_logits

pytestmark = pytest.mark.filterwarnings("ignore")  # those of torch and transformers are not ours to fix


def assert_same_logits(folder, inputs):
    import transformers

    theirs = reference_logits(transformers.AutoModelForCausalLM.from_pretrained(folder).eval(), inputs, exact=True)
    np.testing.assert_allclose(logits(load(folder), **inputs), theirs, **CLOSE)


@pytest.mark.parametrize("stored", ["both", "head"])
@pytest.mark.parametrize("family, table", [("gpt2", "transformer.wte.weight"), ("llama", "model.embed_tokens.weight")])
def test_tied_in_the_config_and_otherwise_in_the_file(tmp_path, family, table, stored):
    random_reference(family, "causal_lm", seed=1, tie_word_embeddings=False).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    if stored == "head":
        tensors = load_file(tmp_path / "model.safetensors")
        del tensors[table]
        save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    assert_same_logits(tmp_path, cases(family)["full"])


YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 10}
LINEAR = {"rope_scaling": {"type": "linear", "factor": 2.0}, "max_sequence_length": 40}


@pytest.mark.parametrize("length", [15, 35])
@pytest.mark.parametrize(
    "changes",
    [
        {"rope_scaling": YARN},
        {"rope_scaling": {**YARN, "original_max_position_embeddings": 20}},
        {"rope_scaling": {"type": "yarn", "factor": 4.0}, "original_max_position_embeddings": 10},
        {"rope_scaling": {**YARN, "beta_fast": None, "finetuned": True}},
        {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
        LINEAR,
        {**LINEAR, "rope_parameters": {"rope_type": "default"}},
    ],
    ids=str,
)
def test_texts_longer_than_the_positions_before_stretching(tmp_path, changes, length):
    random_reference("qwen2", "causal_lm", seed=2).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config.pop("rope_parameters")
    (tmp_path / "config.json").write_text(json.dumps({**config, "rope_theta": 100.0, **changes}))
    assert_same_logits(tmp_path, {"input_ids": np.random.RandomState(0).randint(0, 30, (2, length))})


@pytest.mark.parametrize(
    "family, changes",
    [
        ("mistral", {"sliding_window": 7}),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1}),
    ],
)
def test_texts_that_fit_the_sliding_window(tmp_path, family, changes):
    random_reference(family, "causal_lm", seed=3, **changes).save_pretrained(tmp_path)
    assert_same_logits(tmp_path, {"input_ids": np.arange(14).reshape(2, 7)})


def test_generating_under_dynamic_scaling(tmp_path):
    """Keys stay as they were turned when they were read, as in transformers."""
    import jaxprune as jp

    rope = {"rope_type": "dynamic", "rope_theta": 100.0, "factor": 3.0}
    reference = random_reference("llama", "causal_lm", seed=4, rope_parameters=rope, eos_token_id=None)
    reference.save_pretrained(tmp_path)
    ids = np.random.RandomState(0).randint(2, 30, (1, 12))
    theirs = reference.generate(torch.from_numpy(ids), max_new_tokens=30, do_sample=False, pad_token_id=0)
    ours = jp.generate_ids(load(tmp_path), ids, max_new_tokens=30, end_ids=())
    np.testing.assert_array_equal(ours.ids[0], theirs[0, 12:])


def test_files_from_before_pytorch_1_6(tmp_path):
    """As torch still writes them; some tensors are views, some are tied."""
    reference = random_reference("gpt2", "causal_lm", seed=5)
    reference.config.architectures = [type(reference).__name__]
    reference.config.save_pretrained(tmp_path)
    state = reference.state_dict()
    state["transformer.ln_f.bias"] = torch.cat([state["transformer.ln_f.bias"]] * 2)[12:]
    torch.save(state, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    inputs = cases("gpt2")["full"]
    ours, theirs = logits(load(tmp_path), **inputs), reference_logits(reference, inputs)
    np.testing.assert_allclose(ours, theirs, **CLOSE)
