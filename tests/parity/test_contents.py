"""Folders that contradict themselves, as transformers on torch reads them; run by `make parity`."""

import json

import numpy as np
import pytest

pytest.importorskip("torch", reason="live parity needs torch: make parity installs it")

from safetensors.torch import load_file, save_file

from jaxprune.checkpoint import load
from jaxprune.model import logits
from tests.parity.reference import cases, random_reference, reference_logits

pytestmark = pytest.mark.filterwarnings("ignore")  # those of torch and transformers are not ours to fix

TOLERANCE = 2e-5  # absolute; float32, two layers


def assert_same_logits(folder, inputs):
    import transformers

    theirs = reference_logits(transformers.AutoModelForCausalLM.from_pretrained(folder).eval(), inputs)
    np.testing.assert_allclose(logits(load(folder), **inputs), theirs, rtol=0, atol=TOLERANCE)


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
