import json

import jax
import numpy as np
import pytest

import jaxprune as jp
from jaxprune.checkpoint import load, save
from jaxprune.checkpoint.families import FAMILIES
from jaxprune.errors import CheckpointError, NumericalError, SettingsError
from tests.helpers import tiny

IDS = np.arange(12).reshape(2, 6) + 3
families = pytest.mark.parametrize("family", FAMILIES)
encoders = pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])


def checkpoint(folder, settings, form="safetensors", change=None, **options):
    named = tiny.tensors(settings, **options)
    if change is not None:
        change(named)
    return tiny.write(folder, settings, named, form)


def assert_same_parameters(model, settings):
    expected = tiny.random_model(settings)
    assert model.architecture == expected.architecture
    jax.tree.map(np.testing.assert_array_equal, model.params, expected.params)


def word_embeddings(family: str) -> str:
    return f"{FAMILIES[family].prefix}{FAMILIES[family].modules['embed.token']}.weight"


# --- what comes back


@pytest.mark.parametrize("form", tiny.FORMS)
@families
def test_every_format_gives_the_same_parameters(tmp_path, family, form):
    settings = tiny.config(family)
    model = load(checkpoint(tmp_path / "model", settings, form))
    assert_same_parameters(model, settings)
    assert model.provenance.source == str(tmp_path / "model")
    assert (model.provenance.warnings, model.provenance.record) == ((), {"source_config": settings})
    assert all(isinstance(leaf, jax.Array) and leaf.dtype == np.float32 for leaf in jax.tree.leaves(model.params))


@pytest.mark.parametrize(("family", "head"), tiny.PAIRS)
def test_every_head_and_names_without_prefix(tmp_path, family, head):
    settings = tiny.config(family, head)
    assert_same_parameters(load(checkpoint(tmp_path / "a", settings)), settings)
    assert_same_parameters(load(str(checkpoint(tmp_path / "b", settings, prefix=False))), settings)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
@pytest.mark.parametrize("form", ["safetensors", "msgpack", "bin"])
def test_other_float_types_become_float32(tmp_path, form, dtype):
    import ml_dtypes

    settings = tiny.config("bert")
    kind = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    named = {name: array.astype(kind) for name, array in tiny.tensors(settings).items()}
    model = load(tiny.write(tmp_path / "model", settings, named, form))
    np.testing.assert_array_equal(model.params["embed"]["token"], named[word_embeddings("bert")].astype(np.float32))
    assert model.params["embed"]["token"].dtype == np.float32


def test_parameters_in_bfloat16_and_in_host_memory(tmp_path):
    from ml_dtypes import bfloat16

    settings = tiny.config("llama")
    tensors = tiny.tensors(settings)
    mixed = {name: array.astype(bfloat16) if "q_proj" in name else array for name, array in tensors.items()}
    folder = tiny.write(tmp_path / "model", settings, mixed)
    expected = load(folder)
    kinds = lambda model: {str(leaf.dtype) for leaf in jax.tree.leaves(model.params)}  # noqa: E731
    half = load(folder, dtype="bfloat16", host=True)
    assert kinds(half) == {"bfloat16"} and all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(half.params))
    rounded = lambda leaf: np.asarray(leaf).astype(bfloat16)  # noqa: E731
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x, rounded(y)), half.params, expected.params)
    auto = load(folder, dtype="auto")
    assert kinds(auto) == {"bfloat16", "float32"}
    assert auto.params["layers"][0]["attention"]["q"]["kernel"].dtype == bfloat16
    # A folder of ours keeps the types, and its logits are those of the model in memory, in whatever type it is read.
    save(half, tmp_path / "saved")
    assert kinds(load(tmp_path / "saved", dtype="auto")) == {"bfloat16"}
    for again in (load(tmp_path / "saved"), load(tmp_path / "saved", dtype="auto", host=True)):
        np.testing.assert_array_equal(jp.logits(again, IDS), jp.logits(half, IDS))
    assert kinds(load(tmp_path / "saved")) == {"float32"}
    with pytest.raises(SettingsError, match="dtype is 'int8', expected one of float32, bfloat16, auto"):
        load(folder, dtype="int8")


def test_transposed_views_in_a_pickle_are_read_right(tmp_path):
    settings = tiny.config("bert")
    named = {name: array.T.copy().T if array.ndim == 2 else array for name, array in tiny.tensors(settings).items()}
    assert_same_parameters(load(tiny.write(tmp_path / "model", settings, named, "bin")), settings)


def test_names_converted_from_tensorflow_and_other_heads_tensors(tmp_path):
    def change(named):
        for name in [name for name in named if "LayerNorm" in name]:
            old = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
            named[old] = named.pop(name)
        named["cls.predictions.bias"] = np.zeros(30, np.float32)
        named["bert.embeddings.position_ids"] = np.arange(20)[None]

    settings = tiny.config("bert")
    assert_same_parameters(load(checkpoint(tmp_path / "model", settings, change=change)), settings)


def test_safetensors_win_over_other_formats(tmp_path):
    settings = tiny.config("bert")
    folder = checkpoint(tmp_path / "model", settings)
    (folder / "pytorch_model.bin").write_bytes(b"never read")
    assert_same_parameters(load(folder), settings)


def test_public_names_load_and_save(tmp_path):
    settings = tiny.config("distilbert", "question_answering")
    model = jp.load(checkpoint(tmp_path / "model", settings))
    saved = jp.save(model, tmp_path / "saved")
    manifest = json.loads((saved / "jaxprune.json").read_text())
    assert manifest["source"] == str(tmp_path / "model") and len(manifest["source_hash"]) == 64
    back = jp.load(saved)
    assert back.provenance.record == manifest
    np.testing.assert_array_equal(jp.logits(back, IDS), jp.logits(model, IDS))
    again = json.loads((jp.save(back, tmp_path / "again") / "jaxprune.json").read_text())
    assert again["source_hash"] == manifest["source_hash"]


# --- heads that the file does not have


@encoders
def test_a_missing_head_is_drawn_with_the_seed_and_said_so(tmp_path, family):
    folder = checkpoint(tmp_path / "model", tiny.config(family, "none"))
    model, same, other = (load(folder, labels=("no", "yes"), seed=seed) for seed in (0, 0, 1))
    assert model.architecture.labels == ("no", "yes") and model.architecture.head == "classification"
    assert len(model.provenance.warnings) == 1 and "fine-tune first" in model.provenance.warnings[0]
    kernel = model.params["head"]["kernel"]
    assert kernel.shape == (12, 2) and 0.005 < float(np.std(kernel)) < 0.04
    assert not np.any(model.params["head"]["bias"])
    np.testing.assert_array_equal(kernel, same.params["head"]["kernel"])
    assert not np.array_equal(kernel, other.params["head"]["kernel"])


def test_a_head_that_the_file_should_have_may_be_missing_whole(tmp_path):
    def change(named):
        del named["classifier.weight"], named["classifier.bias"]

    settings = tiny.config("bert")
    model = load(checkpoint(tmp_path / "model", settings, change=change))
    assert "no weights for the classification head:" in model.provenance.warnings[0]
    expected = tiny.random_model(settings)
    np.testing.assert_array_equal(model.params["pooler"]["kernel"], expected.params["pooler"]["kernel"])


def test_a_head_that_is_half_there_is_an_error(tmp_path):
    with pytest.raises(CheckpointError, match=r"missing: classifier\.bias \[3\]"):
        load(checkpoint(tmp_path / "model", tiny.config("bert"), change=lambda named: named.pop("classifier.bias")))


@encoders
def test_another_head_than_the_files(tmp_path, family):
    folder = checkpoint(tmp_path / "model", tiny.config(family))
    spans = load(folder, head="question_answering")
    assert "question answering head" in spans.provenance.warnings[0]
    assert set(spans.params) == {"embed", "layers", "head"} and spans.params["head"]["kernel"].shape == (12, 2)
    bare = load(folder, head="none")
    assert bare.provenance.warnings == () and set(bare.params) == {"embed", "layers"}
    five = load(folder, labels=5)
    assert five.architecture.labels == ("LABEL_0", "LABEL_1", "LABEL_2", "LABEL_3", "LABEL_4")
    assert five.provenance.warnings and five.params["head"]["kernel"].shape == (12, 5)


def test_labels_of_the_same_count_only_rename(tmp_path):
    folder = checkpoint(tmp_path / "model", tiny.config("bert"))
    model, renamed = load(folder), load(folder, labels=["x", "y", "z"], problem="multi_label")
    assert renamed.architecture.labels == ("x", "y", "z") and renamed.architecture.problem == "multi_label"
    assert renamed.provenance.warnings == ()
    jax.tree.map(np.testing.assert_array_equal, renamed.params, model.params)
    assert load(folder, labels=3).architecture.labels == ("a", "b", "c")
    assert load(folder, labels=1).architecture.problem == "regression"


def test_our_own_folders_take_new_heads_too(tmp_path):
    original = load(checkpoint(tmp_path / "model", tiny.config("bert")))
    folder = save(original, tmp_path / "saved")
    assert load(folder, head="classification").provenance.warnings == ()
    model = load(folder, labels=("no", "yes"))
    assert "saved has no weights for the classification head:" in model.provenance.warnings[0]
    np.testing.assert_array_equal(model.params["pooler"]["kernel"], original.params["pooler"]["kernel"])
    assert model.params["head"]["kernel"].shape == (12, 2)
    bare = load(folder, head="none")
    assert set(bare.params) == {"embed", "layers"} and bare.architecture.labels == ()


@pytest.mark.parametrize(
    "asked, message",
    [
        ({"head": "ner"}, "head is 'ner', expected one of classification, token_classification, question_answering, c"),
        ({"problem": "ranking"}, "problem is 'ranking'"),
        ({"labels": 0}, "labels is 0, expected at least one"),
        ({"labels": ()}, "expected at least one"),
        ({"labels": ("yes", "no", "yes")}, "names a class twice; every class needs its own name"),
        ({"labels": "yes"}, "expected a count or the names"),
        ({"labels": 2, "head": "none"}, "labels and problem are for a classification head"),
        ({"labels": 2, "problem": "regression"}, "a regression has one label, got 2"),
    ],
)
def test_requests_without_a_meaning(tmp_path, asked, message):
    folder = checkpoint(tmp_path / "model", tiny.config("bert"))
    with pytest.raises(SettingsError, match=message):
        load(folder, **asked)


def test_a_class_with_an_unknown_head_needs_to_be_told(tmp_path):
    settings = tiny.config("bert")
    named = tiny.tensors(settings)
    folder = tiny.write(tmp_path / "model", {**settings, "architectures": ["BertForMultipleChoice"]}, named)
    with pytest.raises(CheckpointError, match="names a class whose head is not supported") as caught:
        load(folder)
    assert "head=" not in str(caught.value)  # a command line has no such flag
    assert "head='none' loads it without a head" in caught.value.__notes__[0]
    assert load(folder, head="none").params.keys() == {"embed", "layers"}
    # Its classifier is for choices: it must not pass for one of texts.
    assert "no weights for the classification head" in load(folder, head="classification").provenance.warnings[0]


@pytest.mark.parametrize(
    "kinds", [("classification", "token_classification"), ("token_classification", "classification")]
)
def test_a_classifier_of_texts_does_not_pass_for_one_of_tokens(tmp_path, kinds):
    """BERT's lie in a module of one name and shape."""
    settings = tiny.config("bert", kinds[0])
    model = load(tiny.write(tmp_path / "model", settings, tiny.tensors(settings)), head=kinds[1])
    assert (model.architecture.head, len(model.architecture.labels)) == (kinds[1], 2)
    assert f"no weights for the {kinds[1].replace('_', ' ')} " in model.provenance.warnings[0]
    model = load(tmp_path / "model", head=kinds[1], labels=3)
    assert f"no weights for the {kinds[1].replace('_', ' ')} " in model.provenance.warnings[0]
    assert load(tmp_path / "model").provenance.warnings == ()


# --- tensors that do not fit


@encoders
def test_missing_extra_and_misshapen_tensors_are_named_with_both_shapes(tmp_path, family):
    def change(named):
        name = word_embeddings(family)
        named[name] = named[name][:-1]
        named[name.replace(".weight", ".bias")] = np.zeros(5, np.float32)
        bias = next(name for name in named if name.endswith("embeddings.LayerNorm.bias"))
        del named[bias]

    with pytest.raises(CheckpointError) as caught:
        load(checkpoint(tmp_path / "model", tiny.config(family), change=change))
    message = str(caught.value)
    assert "missing: embeddings.LayerNorm.bias [12]" in message
    assert "extra: embeddings.word_embeddings.bias [5]" in message
    assert "misshapen: embeddings.word_embeddings.weight is [29, 12], expected [30, 12]" in message
    assert "\n" not in message


def test_dense_weights_are_checked_as_the_file_lays_them_out(tmp_path):
    def change(named):
        name = "bert.encoder.layer.1.intermediate.dense.weight"
        named[name] = np.ascontiguousarray(named[name].T)

    with pytest.raises(CheckpointError, match=r"intermediate\.dense\.weight is \[12, 10\], expected \[10, 12\]"):
        load(checkpoint(tmp_path / "model", tiny.config("bert"), change=change))


def test_more_layers_in_the_file_than_in_the_config(tmp_path):
    settings = tiny.config("bert")
    folder = checkpoint(tmp_path / "model", settings)
    (folder / "config.json").write_text(json.dumps({**settings, "num_hidden_layers": 1}))
    with pytest.raises(CheckpointError, match=r"extra: encoder\.layer\.1\.\S+ .* and 11 more"):
        load(folder)


def test_labels_that_do_not_fit_the_heads_tensor(tmp_path):
    settings = tiny.config("bert")
    folder = checkpoint(tmp_path / "model", settings)
    (folder / "config.json").write_text(json.dumps({**settings, "id2label": {"0": "a", "1": "b"}}))
    with pytest.raises(CheckpointError, match=r"classifier\.weight is \[3, 12\], expected \[2, 12\]"):
        load(folder)


def test_integer_weights_are_refused(tmp_path):
    def change(named):
        named[word_embeddings("bert")] = np.zeros((30, 12), np.int8)

    with pytest.raises(
        CheckpointError, match=r"not of floats: embeddings\.word_embeddings\.weight is i(nt)?8, .* quantised weights"
    ):
        load(checkpoint(tmp_path / "model", tiny.config("bert"), change=change))


def test_a_tensor_with_and_without_prefix(tmp_path):
    def change(named):
        named["embeddings.LayerNorm.bias"] = np.zeros(12, np.float32)

    with pytest.raises(CheckpointError, match=r"two different tensors embeddings\.LayerNorm\.bias, one of them as"):
        load(checkpoint(tmp_path / "model", tiny.config("bert"), change=change))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("form", ["safetensors", "msgpack", "bin"])
def test_a_tensor_that_is_not_finite_is_named(tmp_path, form, bad):
    def change(named):
        named["bert.encoder.layer.0.output.dense.bias"][3] = bad

    with pytest.raises(NumericalError, match=r"encoder\.layer\.0\.output\.dense\.bias of .* holds NaN or Inf"):
        load(checkpoint(tmp_path / "model", tiny.config("bert"), form, change=change))
