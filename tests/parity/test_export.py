"""What `export` writes, loaded by transformers on torch; run by `make parity`."""

import numpy as np
import pytest

pytest.importorskip("torch", reason="live parity needs torch: make parity installs it")

import jaxprune as jp
from jaxprune.model import logits
from jaxprune.pruning.cut import cut, heads_stay, kept_units
from tests.parity.reference import CLASSES, CLOSE, ENCODERS, cases, compared, random_reference, reference_logits

pytestmark = pytest.mark.filterwarnings("ignore")  # those of torch and transformers are not ours to fix

VARIANTS = {
    **{family: (family, {}) for family in CLASSES},
    "OPT-350m: norms after, projected embeddings": ("opt", {"do_layer_norm_before": False, "word_embed_proj_dim": 8}),
    "Qwen2, a window in late layers": ("qwen2", {"use_sliding_window": True, "sliding_window": 4,
                                                 "max_window_layers": 1}),
    "Llama, tied, biases": ("llama", {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True}),
}  # fmt: skip


def assert_loads(model, reference, folder, **settings):
    """transformers finds every tensor in the folder and no other one, and computes what we compute."""
    written = jp.export(model, folder, **settings)
    theirs, info = type(reference).from_pretrained(folder, output_loading_info=True)
    assert written.config["architectures"] == [type(reference).__name__]
    assert not any(info.values()), info
    family = model.architecture.family
    for name, inputs in cases(family).items():
        expected, got = np.asarray(logits(model, **inputs)), reference_logits(theirs.eval(), inputs)
        if got.ndim == 3:
            got, expected = got[compared(inputs, family)], expected[compared(inputs, family)]
        # A norm of what little is left to add magnifies roundings.
        close = {**CLOSE, "atol": 1e-4} if model.architecture.norms_update else CLOSE
        np.testing.assert_allclose(got, expected, **close, err_msg=name)


def pruned(model, *kept):
    counts = [count for size in model.architecture.layers for count in (size.groups, size.neurons)]
    masks = [np.isin(np.arange(n), range(n) if k is None else k) for n, k in zip(counts, kept, strict=True)]
    return cut(model, masks).with_record(kept=kept_units(model.architecture, masks))


@pytest.mark.parametrize("name", VARIANTS)
def test_transformers_computes_the_same(tmp_path, name):
    family, changes = VARIANTS[name]
    reference = random_reference(family, "classification" if family in ENCODERS else "causal_lm", seed=7, **changes)
    reference.save_pretrained(tmp_path / "dense")
    model = jp.load(tmp_path / "dense")
    heads = ([1], [0]) if hasattr(reference.config, "num_key_value_heads") else (None, None)
    fewer = ([1], [])
    if heads_stay(model.architecture):
        heads = fewer = (None, None)
    assert_loads(pruned(model, heads[0], [0, 3, 9], heads[1], [1, 2, 5]), reference, tmp_path / "small")
    assert_loads(pruned(model, fewer[0], [0, 3, 9], fewer[1], [4]), reference, tmp_path / "full", fill_zeros=True)


def test_new_output_biases_and_shards(tmp_path):
    from dataclasses import replace

    reference = random_reference("llama", "causal_lm", seed=8)
    reference.save_pretrained(tmp_path / "dense")
    model = pruned(jp.load(tmp_path / "dense"), [1], None, [0], None)
    bias = {"bias": np.linspace(-1, 1, 12, dtype=np.float32)}
    layers = [
        {
            "attention": {**layer["attention"], "o": layer["attention"]["o"] | bias},
            "feed_forward": {**layer["feed_forward"], "down": layer["feed_forward"]["down"] | bias},
        }
        for layer in model.params["layers"]
    ]
    architecture = replace(model.architecture, output_bias=True, down_bias=True)
    model = model.replace(architecture=architecture, params={**model.params, "layers": layers})
    assert_loads(model, reference, tmp_path / "small", shard_bytes=4000)
    assert (tmp_path / "small" / "model.safetensors.index.json").exists()


@pytest.mark.parametrize("family", ["distilbert", "gpt2", "qwen3"])
def test_models_without_a_head(tmp_path, family):
    reference = random_reference(family, "none", seed=9)
    reference.save_pretrained(tmp_path / "dense")
    model = jp.load(tmp_path / "dense")
    assert_loads(pruned(model, None, [2, 3], None, [0, 9]), reference, tmp_path / "small")
