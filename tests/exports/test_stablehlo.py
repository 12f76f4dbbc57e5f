"""Programs of jax.export: the same outputs at any size, by JAX alone; what is refused."""

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import jaxprune as jp
from jaxprune.checkpoint import load
from jaxprune.errors import CheckpointError, NumericalError, OutputError, SettingsError
from jaxprune.exports import stablehlo
from jaxprune.model import logits
from jaxprune.pruning.cut import cut
from jaxprune.runtime.decode import generate_ids
from tests.helpers import tiny
from tests.helpers.words import write_tokenizer

UNEVEN = ([0, 2], [1, 7, 8], [], [0, 3])
# What docs/use.md shows, without jaxprune.
LOADER = """
import sys
from pathlib import Path
import numpy as np
from jax import export

program = export.deserialize(bytearray(Path(sys.argv[1]).read_bytes()))
given = np.load(sys.argv[2])
before = [dict(np.load(sys.argv[3]))] if len(sys.argv) > 3 else []
for number in range(2):
    ids = [given[f"{name}{number}"] for name in ("ids", "mask", "types")][: int(given["inputs"])]
    np.testing.assert_allclose(program.call(*before, *ids), given[f"expected{number}"], rtol=0, atol=1e-5)
assert "jaxprune" not in sys.modules
"""


# What docs/use.md shows: the likeliest token each time, behind prompts that are padded on the left.
GREEDY = """
import sys
from pathlib import Path
import numpy as np
from jax import export

step = export.deserialize(bytearray(Path(sys.argv[1]).read_bytes()))
given = np.load(sys.argv[2])
weights = dict(np.load(sys.argv[3]))
ids, padding, first, said = given["ids"], given["padding"], 0, []
rows, width = ids.shape
_, _, groups, _, size = step.in_avals[-1].shape
cache = np.zeros((2, rows, groups, width + 6, size), np.float32)
for _ in range(6):
    logits, cache = step.call(weights, ids, padding, np.int32(first), cache)
    first, ids = first + ids.shape[1], np.argmax(logits, axis=1)[:, None].astype(np.int32)
    said.append(ids)
np.testing.assert_array_equal(np.concatenate(said, axis=1), given["expected"])
beyond, _ = step.call(weights, ids, padding, np.int32(width + 6), cache)
assert np.isnan(beyond).all()
assert "jaxprune" not in sys.modules
"""


def dense(path, family, head=None, **changes):
    settings = tiny.config(family, head, vocab_size=64, **changes)
    tiny.write(path / "dense", settings, {name: 0.7 * tensor for name, tensor in tiny.tensors(settings).items()})
    write_tokenizer(path / "dense")
    return load(path / "dense")


def pruned(model, kept=UNEVEN):
    counts = [count for size in model.architecture.layers for count in (size.groups, size.neurons)]
    return cut(model, [np.isin(np.arange(n), units) for n, units in zip(counts, kept, strict=True)])


@pytest.mark.parametrize("family", ["gemma3_text", "modernbert"])
def test_layers_of_several_kinds(tmp_path, family):
    """The export runs the program, and compares."""
    written = jp.export(pruned(dense(tmp_path, family)), tmp_path / "out", format="stablehlo")
    assert written.errors["model.stablehlo"] < 1e-5


@pytest.mark.parametrize(
    ("family", "head", "weights"),
    [
        ("bert", "classification", "inside"),
        ("roberta", "question_answering", "beside"),
        ("llama", "causal_lm", "inside"),
    ],
)
def test_jax_alone_computes_the_same(tmp_path, family, head, weights):
    model = pruned(dense(tmp_path, family, head))
    written = jp.export(model, tmp_path / "out", format="stablehlo", weights=weights)
    random = np.random.RandomState(0)
    saved: dict[str, Any] = {"inputs": stablehlo.inputs(model.architecture)}
    for number, (rows, length) in enumerate(((1, 5), (3, 12))):
        mask = (np.arange(length) < length - 2 * np.arange(rows)[:, None]).astype(np.int32)
        ids = np.where(mask > 0, random.randint(2, 64, mask.shape), model.architecture.pad_id).astype(np.int32)
        types = random.randint(0, max(model.architecture.token_types, 1), mask.shape).astype(np.int32)
        saved |= {f"ids{number}": ids, f"mask{number}": mask, f"types{number}": types}
        saved[f"expected{number}"] = np.asarray(logits(model, ids, mask, types))
    np.savez(tmp_path / "given.npz", **saved)
    files = [tmp_path / "out" / "model.stablehlo", tmp_path / "given.npz"]
    files += [tmp_path / "out" / "weights.npz"] if weights == "beside" else []
    ran = subprocess.run([sys.executable, "-c", LOADER, *map(str, files)], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    made = ["model.stablehlo", *(["weights.npz"] if weights == "beside" else [])]
    tokenizer = ["tokenizer.json", "tokenizer_config.json"]
    assert names == sorted(["README.md", "config.json", "jaxprune_export.json", *made, *tokenizer])
    record = json.loads((tmp_path / "out" / "jaxprune_export.json").read_text())["export"]
    assert record["format"] == "stablehlo" and record["errors"] == dict(written.errors)
    assert record["errors"] == {"model.stablehlo": pytest.approx(0.0, abs=1e-6)}
    with pytest.raises(OutputError, match="exists and is not empty"):
        jp.export(model, tmp_path / "out", format="stablehlo")
    jp.export(model, tmp_path / "out", format="transformers", fill_zeros=True, overwrite=True)


def test_a_text_longer_than_the_positions_is_refused_and_so_are_places_that_are_none(tmp_path, monkeypatch):
    from jax import export

    model = dense(tmp_path, "bert", max_position_embeddings=8)
    with pytest.raises(SettingsError, match="weights is 'nowhere', expected one of inside, beside"):
        jp.export(model, tmp_path / "out", format="stablehlo", weights="nowhere")
    with pytest.raises(SettingsError, match="weights .beside. has no effect with format 'transformers'"):
        jp.export(model, tmp_path / "out", weights="beside")
    monkeypatch.setattr(stablehlo, "LARGEST", 1000)
    with pytest.raises(SettingsError, match="do not fit into one program; write them with weights='beside'"):
        jp.export(model, tmp_path / "out", format="stablehlo")
    jp.export(model, tmp_path / "out", format="stablehlo", weights="beside")
    program = export.deserialize(bytearray((tmp_path / "out" / "model.stablehlo").read_bytes()))
    ids = np.ones((1, 9), np.int32)
    with pytest.raises(ValueError, match="refining shapes|length"):  # which of them is up to JAX
        program.call(dict(np.load(tmp_path / "out" / "weights.npz")), ids, ids, ids)


def test_a_step_continues_texts_as_generate_does(tmp_path):
    """Layers are uneven, one has no heads and one no neurons; the prompts are of several lengths."""
    model = pruned(dense(tmp_path, "llama", "causal_lm"), ([0, 2], [], [], [0, 3]))
    written = jp.export(model, tmp_path / "out", format="stablehlo", weights="beside", generation=True)
    assert {*written.errors} == {"model.stablehlo", "step.stablehlo"} and max(written.errors.values()) < 1e-5
    prompts = [[5, 9, 31], [7], [40, 41, 42, 43]]
    ids, padding = np.zeros((3, 4), np.int32), np.array([4 - len(prompt) for prompt in prompts], np.int32)
    for row, prompt in zip(ids, prompts, strict=True):
        row[4 - len(prompt) :] = prompt
    expected = generate_ids(model, prompts, max_new_tokens=6, end_ids=()).ids
    np.savez(tmp_path / "given.npz", ids=ids, padding=padding, expected=expected)
    files = [tmp_path / "out" / "step.stablehlo", tmp_path / "given.npz", tmp_path / "out" / "weights.npz"]
    ran = subprocess.run([sys.executable, "-c", GREEDY, *map(str, files)], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    record = json.loads((tmp_path / "out" / "jaxprune_export.json").read_text())["export"]
    assert record["files"] == ["model.stablehlo", "step.stablehlo", "weights.npz"]


@pytest.mark.parametrize("family", ["gemma3_text", "gpt2"])
def test_steps_of_other_kinds_of_layers(tmp_path, family):
    """Windows and several rotations; learned positions. The export compares the steps with whole texts."""
    model = dense(tmp_path, family, "causal_lm")
    written = jp.export(model, tmp_path / "out", format="stablehlo", generation=True)
    assert written.errors["step.stablehlo"] < 1e-5


def test_a_step_that_differs_or_has_no_place_is_refused(tmp_path, monkeypatch):
    model = dense(tmp_path, "bert")
    with pytest.raises(CheckpointError, match="is a language model's, and this one has a classification head; leave"):
        jp.export(model, tmp_path / "out", format="stablehlo", generation=True)
    with pytest.raises(SettingsError, match=r"generation .True. has no effect with format 'onnx'"):
        jp.export(model, tmp_path / "out", format="onnx", generation=True)
    monkeypatch.setattr(stablehlo, "program_error", lambda *_: 0.0)
    monkeypatch.setattr(stablehlo, "step_difference", lambda *_: (0.5, 1.0))
    with pytest.raises(NumericalError, match="outputs that differ by 0.5 .the largest is 1.; nothing was written"):
        jp.export(dense(tmp_path / "lm", "gpt2", "causal_lm"), tmp_path / "out", format="stablehlo", generation=True)
    assert not (tmp_path / "out").exists()
