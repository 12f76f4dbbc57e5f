"""ONNX files run by onnxruntime: every family and head, layers that differ, folders, eight bits, what is refused."""

import errno
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("onnx", reason="ONNX files need the package onnx")
pytest.importorskip("onnxruntime", reason="ONNX files are run by onnxruntime")

import onnx

import jaxprune as jp
from jaxprune.checkpoint import load, write
from jaxprune.errors import CheckpointError, DataError, NumericalError, OutputError, SettingsError
from jaxprune.evaluation.onnx_model import OnnxModel
from jaxprune.exports import onnx as onnx_module
from jaxprune.exports.onnx_file import as_onnx, write_int8, write_onnx
from jaxprune.exports.onnx_graph import graph_of
from jaxprune.model import logits
from jaxprune.model.heads import head_of
from jaxprune.pruning.cut import cut, heads_stay
from jaxprune.runtime.onnx import OnnxProgram, open_onnx
from tests.helpers import tiny
from tests.helpers.chat import chat_model, turns, write_rows
from tests.helpers.exports import with_output_biases
from tests.helpers.words import write_tokenizer

UNEVEN = ([0, 2], [1, 7, 8], [], [0, 3])
EMPTY = ([1], [], [], [])


def pruned(model, kept):
    if heads_stay(model.architecture):
        kept = [range(model.architecture.layers[0].groups) if at % 2 == 0 else units for at, units in enumerate(kept)]
    counts = [count for size in model.architecture.layers for count in (size.groups, size.neurons)]
    return cut(model, [np.isin(np.arange(n), units) for n, units in zip(counts, kept, strict=True)])


def inputs(architecture, rows=4, length=9, left=False):
    """Rows of several lengths, padded on one side."""
    random, a = np.random.RandomState(0), architecture
    mask = (np.arange(length) < np.maximum(length - 2 * np.arange(rows), 1)[:, None]).astype(int)
    mask = mask[:, ::-1] if left else mask
    ids = np.where(mask > 0, random.randint(2, a.vocab, (rows, length)), a.pad_id)
    return ids, mask, random.randint(0, max(a.token_types, 1), (rows, length))


def assert_same_outputs(model, program, rows=4, length=9, left=False):
    """float32, two layers: 1e-5, and every class the same."""
    given = inputs(model.architecture, rows, length, left)
    expected, got = np.asarray(logits(model, *given)), program(*given)
    real = np.ones(rows, bool) if head_of(model.architecture).per_text else given[1] > 0
    assert got.shape == expected.shape and got.dtype == np.float32
    scale = max(1.0, float(np.abs(expected[real]).max()))
    np.testing.assert_allclose(got[real] / scale, expected[real] / scale, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(got[real].argmax(-1), expected[real].argmax(-1))


def program_of(model):
    proto = as_onnx(graph_of(model.architecture, model.params))
    onnx.checker.check_model(proto, full_check=True)
    return open_onnx(proto.SerializeToString(), threads=1)


@pytest.mark.parametrize(("family", "head"), tiny.PAIRS)
def test_every_family_and_head_gives_the_same_outputs(family, head):
    model = with_output_biases(pruned(tiny.random_model(tiny.config(family, head)), UNEVEN))
    program = program_of(model)
    assert_same_outputs(model, program)
    assert ("token_type_ids" in program.inputs) == (model.architecture.token_types > 1)


GROUPED = {"num_attention_heads": 6, "num_key_value_heads": 3, "hidden_size": 24}
VARIANTS = {
    "dense": ("bert", {}, None),
    "nothing is left": ("bert", {}, EMPTY),
    "nothing is left of a decoder": ("llama", {}, EMPTY),
    "grouped queries": ("llama", GROUPED, UNEVEN),
    "query and key norms, grouped": ("qwen3", GROUPED, UNEVEN),
    "a head that is the token table": ("llama", {"tie_word_embeddings": True}, UNEVEN),
    "norms after, projected embeddings": ("opt", {"do_layer_norm_before": False, "word_embed_proj_dim": 8}, UNEVEN),
    "YaRN": (
        "llama",
        {"rope_scaling": {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 8}},
        UNEVEN,
    ),
    "longer than made for": ("llama", {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0},
                                       "max_position_embeddings": 6}, UNEVEN),
    "a window": ("mistral", {"sliding_window": 3}, UNEVEN),
    "a window in late layers": ("qwen2", {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1},
                                UNEVEN),
    "words, of ModernBERT": ("modernbert", {"architectures": ["ModernBertForMaskedLM"]}, UNEVEN),
    "the first token, of a model that may pool": ("modernbert", {"classifier_pooling": "cls"}, UNEVEN),
    "a gelu by tanh": ("bert", {"hidden_act": "gelu_new"}, UNEVEN),
    "a gated gelu": ("llama", {"hidden_act": "gelu"}, UNEVEN),
}  # fmt: skip


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_give_the_same_outputs(name):
    family, changes, kept = VARIANTS[name]
    model = tiny.random_model(tiny.config(family, **changes))
    assert_same_outputs(model if kept is None else (model := pruned(model, kept)), program_of(model))


@pytest.mark.parametrize("family", ["bert", "roberta", "opt", "llama"])
def test_any_number_of_rows_and_tokens_runs(family):
    model = pruned(tiny.random_model(tiny.config(family)), UNEVEN)
    program = program_of(model)
    for rows, length, left in ((1, 1, False), (2, 18, False), (3, 6, True)):
        if left and head_of(model.architecture).per_text:
            continue  # the pooled slot of such a row is padding
        assert_same_outputs(model, program, rows, length, left)


@pytest.mark.parametrize(("family", "right_only"), [("gpt2", True), ("opt", False), ("llama", False)])
def test_positions_of_gpt2_are_slots_of_a_row_others_go_by_the_mask(family, right_only):
    """What the guide says of padding on the left: of GPT-2 it moves positions, as in `logits`."""
    model = tiny.random_model(tiny.config(family))
    program, text = program_of(model), np.arange(3, 8)[None]
    alone = program(text, np.ones_like(text), np.zeros_like(text))[0, -1]
    left = [np.pad(entry, ((0, 0), (3, 0))) for entry in (text, np.ones_like(text), np.zeros_like(text))]
    assert (np.abs(program(*left)[0, -1] - alone).max() > 1e-2) == right_only
    np.testing.assert_allclose(program(*left)[:, 3:], np.asarray(logits(model, *left))[:, 3:], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("pad", [None, 1])
def test_a_classifier_on_a_decoder_reads_the_last_token(tmp_path, pad):
    settings = tiny.config("llama", "classification", vocab_size=64, max_position_embeddings=32, pad_token_id=pad)
    tiny.write(tmp_path / "dense", settings, tiny.tensors(settings))
    write_tokenizer(tmp_path / "dense")
    model = pruned(load(tmp_path / "dense"), UNEVEN)
    assert (model.architecture.pool, model.architecture.pool_pad) == ("last", pad)
    program = program_of(model)
    for left in (False, True):
        given = inputs(replace(model.architecture, pad_id=pad or 0), left=left)
        np.testing.assert_allclose(program(*given), np.asarray(logits(model, *given)), rtol=1e-5, atol=1e-5)
    jp.export(model, tmp_path / "out", format="onnx")
    texts = ["the film was good", "bad", "a very long book and a film"]
    ours, theirs = jp.predict(model, texts), jp.predict(jp.load_onnx(tmp_path / "out"), texts)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose([*one.probabilities.values()], [*other.probabilities.values()], atol=1e-5)


# --- folders


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("onnx") / "dense"
    settings = tiny.config("bert", "classification", vocab_size=64, max_position_embeddings=32)
    tiny.write(folder, settings, {name: 0.7 * tensor for name, tensor in tiny.tensors(settings).items()})
    write_tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def small(source):
    return pruned(load(source), UNEVEN).with_record(method="random", removed={}, kept=[])


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_folder_is_laid_out_as_others_look_for_it(tmp_path, source, small):
    written = jp.export(small, tmp_path / "out", format="onnx", int8=True)
    tokenizer = ["tokenizer.json", "tokenizer_config.json"]
    made = [
        "README.md",
        "config.json",
        "jaxprune_export.json",
        "onnx/model.onnx",
        "onnx/model_quantized.onnx",
        *tokenizer,
    ]
    assert files(tmp_path / "out") == made and written.bytes > 0
    assert set(written.errors) == {"onnx/model.onnx", "onnx/model_quantized.onnx"}
    assert written.errors["onnx/model.onnx"] < 1e-5 < written.errors["onnx/model_quantized.onnx"]
    record = json.loads((tmp_path / "out" / "jaxprune_export.json").read_text())
    assert record["export"]["errors"] == dict(written.errors) and record["export"]["format"] == "onnx"
    assert record["method"] == "random" and record["architecture"]["layers"][1]["groups"] == 0
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["id2label"] == {"0": "a", "1": "b", "2": "c"} and config["model_type"] == "bert"
    proto = onnx.load(str(tmp_path / "out" / "onnx" / "model.onnx"))
    shapes = {value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
              for value in (*proto.graph.input, *proto.graph.output)}  # fmt: skip
    dims = ["batch", "sequence"]
    assert shapes == {"input_ids": dims, "attention_mask": dims, "token_type_ids": dims, "logits": ["batch", 3]}
    assert (proto.opset_import[0].version, {node.domain for node in proto.graph.node}) == (17, {""})


def test_the_file_is_scored_and_predicts_as_the_model_does(tmp_path, small):
    texts = ["the film was good", "a very long book", "dull " * 50, "bad"]
    task = jp.Task("own", "single_label", ("a", "b", "c"), "accuracy", (),
                   tuple(jp.Example(text, None, number % 3) for number, text in enumerate(texts)), "here")  # fmt: skip
    jp.export(small, tmp_path / "out", format="onnx", int8=True)
    shipped = jp.load_onnx(tmp_path / "out", threads=1)
    assert jp.evaluate(shipped, task).metrics == jp.evaluate(small, task).metrics
    ours, theirs = jp.predict(small, texts), jp.predict(shipped, texts)
    assert [one.label for one in ours] == [one.label for one in theirs] and theirs.warnings == ours.warnings
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose([*one.probabilities.values()], [*other.probabilities.values()], atol=1e-5)
    eight = jp.load_onnx(tmp_path / "out", int8=True)
    assert eight.file.name == "model_quantized.onnx" and len(jp.predict(eight, iter(texts)).all()) == 4
    with pytest.raises(SettingsError, match="stream has no effect on an ONNX file"):
        jp.evaluate(shipped, task, stream=True)


def test_spans_and_hidden_states_come_by_the_names_that_others_use():
    names = {}
    for head in ("question_answering", "none"):
        model = tiny.random_model(tiny.config("bert", head))
        names[head] = [entry.name for entry in program_of(model).session.get_outputs()]
    assert names == {"question_answering": ["start_logits", "end_logits"], "none": ["last_hidden_state"]}


def test_weights_lie_beside_a_file_that_would_be_too_large(tmp_path):
    settings = tiny.config("bert", vocab_size=300)
    model = tiny.random_model(settings)
    write_onnx(graph_of(model.architecture, model.params), tmp_path / "model.onnx", largest=1000)
    assert files(tmp_path) == ["model.onnx", "model.onnx_data"]
    assert_same_outputs(model, open_onnx(tmp_path / "model.onnx"))
    write_int8(graph_of(model.architecture, model.params), tmp_path / "small.onnx", largest=1000)
    assert files(tmp_path) == ["model.onnx", "model.onnx_data", "small.onnx", "small.onnx_data"]
    assert np.isfinite(open_onnx(tmp_path / "small.onnx")(*inputs(model.architecture))).all()


def test_a_tied_table_is_stored_once_and_in_eight_bits_is_smaller_still(tmp_path):
    model = tiny.random_model(tiny.config("llama", tie_word_embeddings=True, vocab_size=4000))
    graph = graph_of(model.architecture, model.params)
    write_onnx(graph, tmp_path / "model.onnx")
    write_int8(graph, tmp_path / "int8.onnx")
    assert files(tmp_path) == ["int8.onnx", "model.onnx"]
    table = 4000 * 12
    assert 4 * table < os.path.getsize(tmp_path / "model.onnx") < 5 * table
    assert os.path.getsize(tmp_path / "int8.onnx") < 3.5 * table  # once to look up, once to multiply with
    stored = onnx.load(tmp_path / "int8.onnx").graph.initializer
    scales = {entry.name.removesuffix("_scale"): [*entry.dims] for entry in stored if entry.name.endswith("_scale")}
    assert scales["embed.token"] == [] and scales["head.weight"] == [4000]  # one a table, one a column of a matrix
    given = inputs(model.architecture)
    expected, got = np.asarray(logits(model, *given)), open_onnx(tmp_path / "int8.onnx")(*given)
    real = given[1] > 0
    assert np.abs(got - expected)[real].max() < np.abs(expected[real]).max() / 10


def test_only_our_own_folders_are_replaced(tmp_path, small):
    out = tmp_path / "out"
    jp.export(small, out, format="onnx")
    with pytest.raises(OutputError, match="exists and is not empty"):
        jp.export(small, out, format="onnx")
    jp.export(small, out, format="onnx", overwrite=True, int8=True)
    (out / "onnx" / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="also holds onnx/notes.txt"):
        jp.export(small, out, format="onnx", overwrite=True)
    (out / "onnx" / "notes.txt").unlink()
    (out / "model").mkdir()
    (out / "model" / "x.safetensors").write_text("mine")
    with pytest.raises(OutputError, match="also holds model/x.safetensors"):
        jp.save(small, out, overwrite=True)


def test_an_interrupted_export_leaves_what_was_there(tmp_path, small, monkeypatch):
    def stopped(*_):
        raise KeyboardInterrupt

    def no_space(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    jp.export(small, tmp_path / "out", format="onnx")
    before = files(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(onnx_module, "write_int8", stopped)
        with pytest.raises(KeyboardInterrupt):
            jp.export(small, tmp_path / "out", format="onnx", int8=True, overwrite=True)
    monkeypatch.setattr(write, "_sync", no_space)
    with pytest.raises(OutputError, match="No space left on device"):
        jp.export(small, tmp_path / "out", format="onnx", int8=True, overwrite=True)
    assert files(tmp_path) == before


def test_a_file_that_computes_something_else_is_refused(tmp_path, small, monkeypatch):
    wrong = small.replace(params={**small.params, "head": {**small.params["head"], "bias": jnp.ones(3)}})
    monkeypatch.setattr(onnx_module, "graph_of", lambda a, _: graph_of(a, wrong.params))
    with pytest.raises(NumericalError, match="the ONNX file gives outputs that differ by .* nothing was written"):
        jp.export(small, tmp_path / "out", format="onnx")
    assert files(tmp_path) == []


def test_without_onnxruntime_the_file_is_written_and_not_run(tmp_path, small, monkeypatch):
    monkeypatch.setattr(onnx_module, "has_onnxruntime", lambda: False)
    written = jp.export(small, tmp_path / "out", format="onnx")
    assert not written.errors and "the ONNX file was not run: onnxruntime is not installed" in written.warnings[0]
    for missing in ("onnx", "onnxruntime"):
        monkeypatch.setattr(onnx_module, "find_spec", lambda name, missing=missing: None if name == missing else 1)
        with pytest.raises(SettingsError, match=rf"needs the package {missing}; pip install 'jaxprune\[onnx\]'"):
            jp.export(small, tmp_path / "other", format="onnx", int8=missing == "onnxruntime")


def test_what_cannot_be_is_named(tmp_path, small, source):
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"format": "tflite"}, "format is 'tflite', expected one of transformers, onnx"),
        ({"format": "onnx", "fill_zeros": True}, r"fill_zeros \(True\) has no effect with format 'onnx'"),
        ({"format": "onnx", "dtype": "bfloat16"}, r"dtype \(bfloat16\) has no effect"),
        ({"int8": True}, r"int8 \(True\) has no effect with format 'transformers'"),
    ]
    for given, says in wrong:
        with pytest.raises(SettingsError, match=says):
            jp.export(small, tmp_path / "out", **given)
    with pytest.raises(CheckpointError, match="no source_config"):
        jp.export(tiny.random_model(tiny.config("bert")), tmp_path / "out", format="onnx")
    nan = small.replace(params={**small.params, "head": {**small.params["head"], "bias": jnp.full(3, jnp.nan)}})
    with pytest.raises(NumericalError, match="tensor head.bias of the model holds NaN"):
        jp.export(nan, tmp_path / "out", format="onnx")
    with pytest.raises(CheckpointError, match="jaxprune_export.json is missing"):
        jp.load_onnx(source)
    jp.export(small, tmp_path / "out", format="onnx")
    with pytest.raises(CheckpointError, match="has no onnx/model_quantized.onnx; export the model with int8=True"):
        jp.load_onnx(tmp_path / "out", int8=True)
    with pytest.raises(CheckpointError, match="is an export in the format onnx; run it with jaxprune.load_onnx"):
        load(tmp_path / "out")
    assert not jp.load_onnx(tmp_path / "out").described.provenance.warnings
    other = small.replace(params={**small.params, "head": jax.tree.map(lambda leaf: -leaf, small.params["head"])})
    jp.export(other, tmp_path / "other", format="onnx")
    (tmp_path / "out/onnx/model.onnx").write_bytes((tmp_path / "other/onnx/model.onnx").read_bytes())
    (told,) = jp.load_onnx(tmp_path / "out").described.provenance.warnings
    assert "model.onnx is not the file that was exported" in told
    (tmp_path / "out" / "onnx" / "model.onnx").write_bytes(b"junk")
    with pytest.raises(CheckpointError, match="missing or damaged"):
        jp.load_onnx(tmp_path / "out")
    jp.export(small, tmp_path / "zeros", fill_zeros=True)
    with pytest.raises(CheckpointError, match="is no ONNX export"):
        jp.load_onnx(tmp_path / "zeros")


def test_perplexity_of_a_file_is_that_of_the_model(tmp_path):
    """Of rows of token ids, and of conversations, in which what the assistant says counts."""
    model = pruned(chat_model(tmp_path / "dense"), UNEVEN)
    jp.export(model, tmp_path / "out", format="onnx")
    shipped = jp.load_onnx(tmp_path / "out")
    said = [{"messages": turns("the film?", "it was the film", "why", "so")}, {"prompt": "see", "completion": " it"}]
    conversations = jp.tasks.chat(write_rows(tmp_path / "a.jsonl", said))
    for task in (jp.tasks.of_ids([[5, 6, 7], [9, 8, 7, 6, 270]], None), conversations):
        ours, theirs = jp.evaluate(model, task), jp.evaluate(shipped, task)
        assert theirs.score == pytest.approx(ours.score, rel=1e-5)
        assert (theirs.examples, theirs.tokens) == (ours.examples, ours.tokens)


def test_pseudo_perplexity_of_a_file_is_refused():
    shipped = OnnxModel(tiny.random_model(tiny.config("bert", "masked_lm")), OnnxProgram(None, ()), Path("x.onnx"))
    with pytest.raises(DataError, match="an ONNX file gives no pseudo-perplexity here; score the model that it was"):
        jp.evaluate(shipped, jp.tasks.of_ids([[5, 6, 7]], None))
