"""Adapter folders that others wrote: each kind is read as PEFT reads it, or refused by name. tests/parity runs PEFT."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

import jaxprune as jp
from jaxprune.errors import CheckpointError, SettingsError
from jaxprune.finetuning.lora import adapters_of, plan_of
from jaxprune.finetuning.peft import check_apart, write_peft
from tests.helpers import tiny

AT = "base_model.model."
QUERY = f"{AT}bert.encoder.layer.1.attention.self.query"
POOLER = f"{AT}bert.pooler.dense"
PLAIN = {"peft_type": "LORA", "task_type": "SEQ_CLS", "r": 2, "lora_alpha": 6}


def draw(*shape: int) -> np.ndarray:
    return np.random.RandomState(sum(shape)).normal(0, 0.3, shape).astype(np.float32)


def pair(module: str, inputs: int = 12, outputs: int = 12, named: str = "") -> dict[str, np.ndarray]:
    return {f"{module}.lora_A{named}.weight": draw(2, inputs), f"{module}.lora_B{named}.weight": draw(outputs, 2)}


def write(folder: Path, tensors: dict[str, np.ndarray], pickled: bool = False, **config) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({**PLAIN, **config}))
    if pickled:
        tiny.write_bin(folder / "adapter_model.bin", tensors)
    else:
        save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def added(tensors: dict[str, np.ndarray], module: str, named: str = "") -> np.ndarray:
    """What the pair adds to a kernel [inputs, outputs]: alpha / rank is 3."""
    return 3 * (tensors[f"{module}.lora_B{named}.weight"] @ tensors[f"{module}.lora_A{named}.weight"]).T


@pytest.fixture(scope="module")
def bert() -> jp.Model:
    return tiny.random_model(tiny.config("bert"))


def kernels(model: jp.Model) -> tuple[np.ndarray, np.ndarray]:
    """Of the last layer's query and of the pooler."""
    query = np.asarray(model.params["layers"][1]["attention"]["q"]["kernel"], np.float32).reshape(12, 12)
    return query, np.asarray(model.params["pooler"]["kernel"], np.float32)


@pytest.mark.parametrize("pickled", [False, True])
@pytest.mark.parametrize("named", ["", ".default"])
def test_projections_and_the_pooler_are_merged_from_every_form(bert, tmp_path, named, pickled):
    tensors = pair(QUERY, named=named) | pair(POOLER, named=named)
    ours = jp.load_adapter(bert, write(tmp_path / "adapter", tensors, pickled))
    before, after = kernels(bert), kernels(ours)
    np.testing.assert_allclose(after[0] - before[0], added(tensors, QUERY, named), atol=1e-6)
    np.testing.assert_allclose(after[1] - before[1], added(tensors, POOLER, named), atol=1e-6)


def test_a_bfloat16_base_stays_one(bert, tmp_path):
    half = bert.replace(params=jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), bert.params))
    tensors = pair(QUERY) | pair(POOLER) | {f"{AT}classifier.weight": draw(3, 12), f"{AT}classifier.bias": draw(3)}
    folder = write(tmp_path / "adapter", tensors, modules_to_save=["classifier"])
    ours = jp.load_adapter(half, folder)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(ours.params)} == {"bfloat16"}
    for after, before, module in zip(kernels(ours), kernels(half), (QUERY, POOLER), strict=True):
        np.testing.assert_allclose(after, before + added(tensors, module), rtol=2**-8, atol=1e-6)  # rounded once


def test_three_projections_in_one_are_taken_apart(tmp_path):
    """GPT-2 keeps q, k and v in one module; fan_in_fan_out says nothing about factors."""
    gpt2 = tiny.random_model(tiny.config("gpt2"))
    module = f"{AT}transformer.h.0.attn.c_attn"
    tensors = pair(module, outputs=36) | {f"{module}.bias": draw(36)}
    folder = write(tmp_path / "adapter", tensors, task_type="CAUSAL_LM", fan_in_fan_out=True, bias="lora_only")
    before, after = (model.params["layers"][0]["attention"] for model in (gpt2, jp.load_adapter(gpt2, folder)))
    update = added(tensors, module)
    for number, name in enumerate("qkv"):
        part = slice(12 * number, 12 * number + 12)
        change = (after[name]["kernel"] - before[name]["kernel"]).reshape(12, 12)
        np.testing.assert_allclose(change, update[:, part], atol=1e-6)
        np.testing.assert_array_equal(np.ravel(after[name]["bias"]), tensors[f"{module}.bias"][part])


@pytest.mark.parametrize(
    "config, says",
    [
        *(
            ({"init_lora_weights": start}, f"init_lora_weights to '{start}', which changes the base model's weights")
            for start in ("pissa", "pissa_niter_4", "olora", "loftq", "corda", "lora_ga", "something")
        ),
        *(
            ({key: value}, f"sets {key}, which")
            for key, value in {
                "use_dora": True, "use_qalora": True, "use_bdlora": {"nblocks": 2}, "kasa_config": {"beta": 1e-4},
                "monteclora_config": {"num_samples": 8}, "arrow_config": {"top_k": 3}, "lora_bias": True,
                "alora_invocation_tokens": [5], "layer_replication": [[0, 2]], "target_parameters": ["a.b"],
                "trainable_token_indices": [3], "megatron_config": {"x": 1}, "enable_lora": [True, False],
            }.items()
        ),
        ({"use_new": True, "other_new": 3, "new_but_off": False}, "sets use_new, other_new, which this version"),
        ({"peft_type": "ADALORA"}, "peft_type 'ADALORA', expected LORA"),
        ({"task_type": "TOKEN_CLS"}, "classifies tokens .*, the model's head is classification; give the token"),
        ({"target_modules": ["key"]}, "encoder.layer.1.attention.self.query, which .* does not target"),
        ({"target_modules": ["query"], "layers_to_transform": 0}, "does not target"),
        ({"target_modules": "query"}, "does not target"),  # a regular expression for the whole name
        ({"target_modules": ["query"], "exclude_modules": ["self.query"]}, "does not target"),
        ({"rank_pattern": {"(": 3}}, "pattern .* which is none"),
        ({"modules_to_save": ["classifier"]}, "what it has no tensor of: classifier.bias, classifier.weight"),
        ({}, ""),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)  # fmt: skip
def test_what_is_no_plain_lora_is_refused_by_name(bert, tmp_path, config, says):
    folder = write(tmp_path / "adapter", pair(QUERY), **config)
    if not says:  # the folder itself is fine
        jp.load_adapter(bert, folder)
        return
    with pytest.raises(CheckpointError, match=says):
        jp.load_adapter(bert, folder)


@pytest.mark.parametrize(
    "extra, says",
    [
        ({f"{QUERY}.lora_magnitude_vector": draw(12)}, "lora_magnitude_vector, which plain LoRA has not"),
        ({f"{QUERY}.lora_B.bias": draw(12)}, "lora_B.bias, which plain LoRA has not"),
        (pair(QUERY, named=".one") | pair(POOLER, named=".two"), "holds adapters one, two, expected one"),
        ({f"{AT}bert.nothing.weight": draw(3, 3)}, "bert.nothing.weight, for which the model has no place"),
        ({f"{AT}classifier.weight": np.ones((3, 12), np.int32)}, "is int32, expected floats"),
    ],
)
def test_tensors_that_are_not_understood_are_refused(bert, tmp_path, extra, says):
    with pytest.raises(CheckpointError, match=says):
        jp.load_adapter(bert, write(tmp_path / "adapter", pair(QUERY) | extra))


def test_a_pickle_that_runs_something_is_refused(bert, tmp_path):
    folder = write(tmp_path / "adapter", pair(QUERY), pickled=True)
    tiny.write_zip(folder / "adapter_model.bin", b"cos\nsystem\n(S'true'\ntR.", {})
    with pytest.raises(CheckpointError, match="asks to run os.system"):
        jp.load_adapter(bert, folder)


def test_embeddings_that_the_output_shares_cannot_train_apart(tmp_path):
    opt = tiny.random_model(tiny.config("opt"))
    assert opt.architecture.tied
    table = {f"{AT}model.decoder.embed_tokens.weight": draw(30, 12)}
    config = {"task_type": "CAUSAL_LM", "modules_to_save": ["embed_tokens"]}
    with pytest.raises(CheckpointError, match="trained the embeddings apart from the output"):
        jp.load_adapter(opt, write(tmp_path / "apart", table, **config))
    ours = jp.load_adapter(opt, write(tmp_path / "tied", table, ensure_weight_tying=True, **config))
    np.testing.assert_array_equal(ours.params["embed"]["token"], next(iter(table.values())))


def test_a_token_classifiers_adapter_is_read(folder, tmp_path):
    row = {"tokens": "the film was good".split(), "tags": ["O", "B-FILM", "O", "O"]}
    (tmp_path / "validation.jsonl").write_text("\n".join([json.dumps(row)] * 8))
    (tmp_path / "train.jsonl").write_text("\n".join([json.dumps(row | {"tokens": "a plot is dull".split()})] * 8))
    task = jp.tasks.token_classification(tmp_path)
    tagger = jp.load(folder, head="token_classification", labels=task.labels)
    training = jp.Train(epochs=1, batch_size=4, learning_rate=1e-2)
    tuned = jp.finetune(tagger, task, training, lora=jp.Lora(rank=2), adapter_out=tmp_path / "adapter")
    ids = np.arange(14).reshape(2, 7) + 4
    expected = jp.logits(tuned, ids)
    assert np.abs(expected - jp.logits(tagger, ids)).max() > 1e-2
    read = jp.load_adapter(tagger, tmp_path / "adapter")
    np.testing.assert_allclose(jp.logits(read, ids), expected, atol=1e-5)
    assert not any("was made for the task" in entry for entry in read.provenance.warnings)


def test_doubts_are_warnings(bert, tmp_path):
    folder = write(
        tmp_path / "adapter", pair(QUERY), target_modules=["query"], task_type="CAUSAL_LM",
        base_model_name_or_path="org/another",
    )  # fmt: skip
    known = bert.with_record(source="org/this")
    told = " ".join(jp.load_adapter(known, folder).provenance.warnings)
    assert "made for the task CAUSAL_LM, the model's is SEQ_CLS" in told
    assert "made on org/another, the model is org/this" in told
    assert "targets bert.encoder.layer.0.attention.self.query and holds no adapter of it" in told


def test_silent_ranks_and_scales_are_pefts(bert, tmp_path):
    """Rank 8 and alpha 8, where the file says neither."""
    tensors = {f"{QUERY}.lora_A.weight": draw(8, 12), f"{QUERY}.lora_B.weight": draw(12, 8)}
    folder = write(tmp_path / "adapter", tensors)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    change = kernels(jp.load_adapter(bert, folder))[0] - kernels(bert)[0]
    np.testing.assert_allclose(change, added(tensors, QUERY) / 3, atol=1e-6)


@pytest.mark.parametrize(
    "family, modules", [("bert", ["classifier"]), ("distilbert", ["classifier", "pre_classifier"])]
)
def test_a_folder_of_ours_holds_what_peft_looks_for(tmp_path, family, modules):
    model = tiny.random_model(tiny.config(family))
    adapters = adapters_of(plan_of(jp.Lora(rank=2, projections=("q",)), model.architecture), model.architecture)
    folder = write_peft(tmp_path / "adapter", model, adapters, ["layers/0/attention/norm/scale"])
    saved = json.loads((folder / "adapter_config.json").read_text())["modules_to_save"]
    assert [name for name in saved if "orm" not in name] == modules
    assert len(saved) == len(modules) + 1


def test_a_module_cannot_both_have_an_adapter_and_train(bert):
    plan = plan_of(jp.Lora(rank=2, projections=("q",)), bert.architecture)
    with pytest.raises(SettingsError, match="layers/0/attention/q/bias trains and layers/0/attention/q has an adapter"):
        check_apart(plan, ["layers/0/attention/q/bias"], bert.architecture)
    check_apart(plan, ["layers/0/attention/v/bias", "head/kernel"], bert.architecture)
