"""Classification of texts on decoders against transformers on torch, live; run by `make parity`."""

import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("torch", reason="live parity needs torch: make parity installs it")

import torch

import jaxprune as jp
from jaxprune.evaluation.outputs import text_outputs
from jaxprune.model.heads import head_of
from jaxprune.model.padded import plain_batch
from jaxprune.tokens.packing import Encoded
from tests.parity.reference import CLASSES, CLOSE, DECODERS, LENGTH, cases, random_reference, reference_logits

pytestmark = pytest.mark.filterwarnings("ignore")  # those of torch and transformers are not ours to fix

# Grouped queries whose heads are wider than the stream's share of one, where a config can say so.
_UNUSUAL = {"hidden_size": 20, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 6}
UNUSUAL = {
    "opt": {"word_embed_proj_dim": 8, "do_layer_norm_before": False},
    "gpt2": {"n_inner": None, "n_head": 4},
    **dict.fromkeys(("mistral", "qwen2", "qwen3", "gemma", "smollm3", "olmo2"), _UNUSUAL),
    "phi3": _UNUSUAL | {"head_dim": 8},  # the half of which is turned
    # A multiple of its heads, which their configs demand.
    **dict.fromkeys(("llama", "gemma2", "gemma3_text"), _UNUSUAL | {"hidden_size": 24}),
}
PROBLEMS = {
    "single_label": {"num_labels": 5},
    "multi_label": {"num_labels": 4, "problem_type": "multi_label_classification"},
    "regression": {"num_labels": 1},
}


def saved(folder, family, **changes):
    reference = random_reference(family, "classification", seed=1, **changes)
    reference.save_pretrained(folder)
    return reference


def assert_same(model, reference, inputs):
    np.testing.assert_allclose(jp.logits(model, **inputs), reference_logits(reference, inputs), **CLOSE)


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("family", DECODERS)
def test_logits_and_losses_match_transformers(tmp_path, family, problem):
    reference = saved(tmp_path, family, **UNUSUAL[family], **PROBLEMS[problem])
    model = jp.load(tmp_path)
    a, random = model.architecture, np.random.RandomState(0)
    assert (a.head, a.problem, a.family) == ("classification", problem, family)
    assert "bias" not in model.params["head"] and model.provenance.warnings == ()
    goals = {
        "single_label": random.randint(5, size=3),
        "multi_label": random.randint(2, size=(3, 4)).astype(np.float32),
        "regression": random.normal(size=3).astype(np.float32),
    }[problem]
    for inputs in cases(family).values():
        assert_same(model, reference, inputs)
        with torch.no_grad():
            given = {name: torch.from_numpy(array) for name, array in (inputs | {"labels": goals}).items()}
            theirs = float(reference(**given).loss)
        batch = plain_batch(a, inputs["input_ids"], inputs.get("attention_mask"))
        loss = head_of(a).loss
        assert loss is not None
        ours = loss(jp.logits(model, **inputs)[:, None], jnp.asarray(goals)[:, None], batch, 0.0)
        np.testing.assert_allclose(np.mean(ours), theirs, rtol=1e-5)


@pytest.mark.parametrize("family", DECODERS)
@pytest.mark.parametrize("pad", [0, 1, None])
def test_a_packed_text_has_the_logits_that_it_has_alone(tmp_path, family, pad):
    """Also where padding's token stands inside a text, ends it (as where it is the end token), or is all of it."""
    reference = saved(tmp_path, family, pad_token_id=pad)
    model = jp.load(tmp_path)
    assert model.architecture.pool_pad == pad
    texts = [[3, 0, 7], [4, 9, 2, 0], [5, 0, 0, 1], [1, 1], [0], [8], [6, 1, 6, 6, 1, 0, 1]]
    arrays = [np.array(text, np.int32) for text in texts]
    ours = text_outputs(model, Encoded(arrays, [np.zeros_like(ids) for ids in arrays]))
    for text, got in zip(texts, ours, strict=True):
        alone = {"input_ids": np.array([text])}
        np.testing.assert_allclose(got, reference_logits(reference, alone)[0], **CLOSE)
        assert_same(model, reference, alone)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_tokens_inside_a_padded_text(tmp_path, side):
    reference = saved(tmp_path, "llama")
    ids, mask = np.full((3, LENGTH), 0), np.zeros((3, LENGTH), int)
    for row, text in enumerate(([5, 0, 7], [4, 9, 2, 0], [3, 8])):  # the second ends as it is padded
        at = slice(0, len(text)) if side == "right" else slice(LENGTH - len(text), LENGTH)
        ids[row, at], mask[row, at] = text, 1
    assert_same(jp.load(tmp_path), reference, {"input_ids": ids, "attention_mask": mask})


def test_without_padding_transformers_takes_one_text_and_we_any_number(tmp_path):
    reference = saved(tmp_path, "qwen2", pad_token_id=None)
    model, right = jp.load(tmp_path), cases("qwen2")["right"]
    with pytest.raises(ValueError, match="Cannot handle batch sizes > 1 if no padding token is defined"):
        reference_logits(reference, right)
    ids, mask = right["input_ids"], right["attention_mask"]
    rows = [row[None, seen == 1] for row, seen in zip(ids, mask, strict=True)]
    alone = [reference_logits(reference, {"input_ids": row})[0] for row in rows]
    np.testing.assert_allclose(jp.logits(model, **right), alone, **CLOSE)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_half_precision_files_are_computed_in_float32(tmp_path, family, dtype):
    reference = saved(tmp_path / "whole", family, tie_word_embeddings=True)
    reference.to(getattr(torch, dtype)).save_pretrained(tmp_path / "half")
    # Read anew: rounding the model itself has rounded its rotary angles too.
    reference = type(reference).from_pretrained(tmp_path / "half", dtype=torch.float32).eval()
    model = jp.load(tmp_path / "half")
    assert set(model.provenance.dtypes.values()) == {dtype} and not model.architecture.tied
    for inputs in cases(family).values():
        assert_same(model, reference, inputs)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", DECODERS)
def test_a_language_model_becomes_a_classifier_as_in_transformers(tmp_path, family, tied):
    import transformers

    language = random_reference(family, "causal_lm", seed=2, tie_word_embeddings=tied, pad_token_id=0)
    language.save_pretrained(tmp_path / "language")
    model = jp.load(tmp_path / "language", head="classification", labels=["bad", "good"])
    (said,) = model.provenance.warnings
    kind = getattr(transformers, f"{CLASSES[family]}ForSequenceClassification")
    theirs, info = kind.from_pretrained(tmp_path / "language", num_labels=2, output_loading_info=True)
    assert info["missing_keys"] == {"score.weight"} and ("lm_head.weight" in info["unexpected_keys"]) != tied
    assert ("lm_head is left out" in said) != tied and "no weights for the classification head" in said
    theirs.score.weight.data = torch.from_numpy(np.asarray(model.params["head"]["kernel"]).T.copy())
    for inputs in cases(family).values():
        assert_same(model, theirs.eval(), inputs)
    jp.export(model, tmp_path / "out")
    again, info = kind.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info.values()) and again.config.id2label == {0: "bad", 1: "good"}
    for inputs in cases(family).values():
        assert_same(model, again.eval(), inputs)
