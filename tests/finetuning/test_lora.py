"""Adapters: where they go, that merging changes nothing, and folders that PEFT reads."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import jaxprune as jp
from jaxprune.errors import CheckpointError, OutputError, SettingsError
from jaxprune.finetuning.lora import Adapters, Size, adapters_of, count, each_adapter, merged, plan_of, sites_of
from jaxprune.finetuning.peft import write_peft
from jaxprune.finetuning.peft_read import read_peft
from jaxprune.model import Sites, forward
from jaxprune.model.padded import plain_batch
from jaxprune.pruning.cut import cut
from tests.helpers import tiny

EVERY = ("q", "k", "v", "o", "up", "down")
IDS = np.arange(14).reshape(2, 7) % 20 + 3


def filled(adapters: Adapters) -> Adapters:
    """Adapters with numbers in B as well, as after training."""
    random = np.random.RandomState(3)
    draw = lambda leaf: jnp.asarray(random.normal(0, 0.3, leaf.shape), jnp.float32)  # noqa: E731
    return adapters._replace(weights=jax.tree.map(draw, adapters.weights))


def ragged(model: jp.Model) -> jp.Model:
    """One head and six neurons in layer 0; no head at all in layer 1."""
    masks = [np.arange(3) == 1, np.arange(10) < 6, np.zeros(3, bool), np.ones(10, bool)]
    small = cut(model, masks)
    return small.replace(params=jax.tree.map(jnp.asarray, small.params))


def run(model: jp.Model, adapters: Adapters | None) -> np.ndarray:
    batch = plain_batch(model.architecture, IDS)
    sites = Sites() if adapters is None else Sites(adapters=sites_of(adapters.weights, adapters.scaling))
    return np.asarray(jax.jit(lambda: forward(model.params, batch, model.architecture, sites).logits)())


@pytest.mark.parametrize("shape", ["dense", "ragged"])
@pytest.mark.parametrize("rslora", [False, True])
def test_merged_equals_unmerged(shape, rslora):
    model = tiny.random_model(tiny.config("bert"))
    model = ragged(model) if shape == "ragged" else model
    plan = plan_of(jp.Lora(rank=2, alpha=3.0, projections=EVERY, rslora=rslora), model.architecture)
    assert len(plan) == (12 if shape == "dense" else 8)  # a block without heads has no q, k, v, o to adapt
    adapters = filled(adapters_of(plan, model.architecture))
    apart = run(model, adapters)
    assert np.abs(apart - run(model, None)).max() > 1e-2
    np.testing.assert_allclose(run(merged(model, adapters), None), apart, atol=1e-5, rtol=1e-5)


def test_new_adapters_change_nothing_and_have_the_stated_spread():
    model = tiny.random_model(tiny.config("bert", hidden_size=240))
    adapters = adapters_of(plan_of(jp.Lora(), model.architecture), model.architecture, seed=1)
    np.testing.assert_array_equal(run(model, adapters), run(model, None))
    drawn = np.concatenate([np.ravel(a) for _, a, _, _ in each_adapter(adapters)])
    np.testing.assert_allclose([drawn.mean(), drawn.std()], [0, 0.01], atol=3e-4)  # 11,520 draws
    again = adapters_of(plan_of(jp.Lora(), model.architecture), model.architecture, seed=1)
    jax.tree.map(np.testing.assert_array_equal, adapters, again)


def test_scale_is_alpha_over_rank_or_its_root():
    assert Size(4, 8.0).scaling == 2.0
    assert Size(4, 8.0, rslora=True).scaling == 4.0


def test_patterns_set_single_ranks_and_the_last_match_holds():
    a = tiny.random_model(tiny.config("bert")).architecture
    lora = jp.Lora(
        rank=2,
        projections=("q", "v"),
        rank_pattern=("layers/1/*=5", "*/v=3"),
        alpha_pattern=("layers/0/attention/q=7",),
    )
    assert plan_of(lora, a) == {
        "layers/0/attention/q": Size(2, 7.0), "layers/0/attention/v": Size(3, 16.0),
        "layers/1/attention/q": Size(5, 16.0), "layers/1/attention/v": Size(3, 16.0),
    }  # fmt: skip


@pytest.mark.parametrize(
    "wrong, says",
    [
        ({"rank": 0}, "rank must be at least 1, got 0"),
        ({"rank": 13}, r"rank of layers/0/attention/q must lie in 1 … 12, its width, got 13"),
        ({"alpha": 0.0}, "alpha must be a positive number, got 0.0"),
        ({"projections": ("q", "w")}, "projections must be some of q, k.* got q, w"),
        ({"projections": ()}, "got none"),
        ({"projections": ("gate",)}, "no projection gate"),
        ({"rank_pattern": ("layer.0=4",)}, "'layer.0' matches no projection .* layers/0/attention/q"),
        ({"rank_pattern": ("layers/0/*=many",)}, "must be PATTERN=NUMBER"),
        ({"rank_pattern": ("layers/0/*=0",)}, "with a positive number"),
        ({"alpha_pattern": ("4",)}, "must be PATTERN=NUMBER"),
    ],
)
def test_settings_that_fit_no_model_are_refused(wrong, says):
    with pytest.raises(SettingsError, match=says):
        plan_of(jp.Lora(**wrong), tiny.random_model(tiny.config("bert")).architecture)


def test_only_adapters_norms_and_head_train(model, task, tmp_path):
    tuned = jp.finetune(
        model, task, jp.Train(epochs=1, batch_size=16, learning_rate=1e-2),
        lora=jp.Lora(rank=2, projections=("q", "v")), adapter_out=tmp_path / "adapter",
    )  # fmt: skip
    moved = {
        jax.tree_util.keystr(path, simple=True, separator="/")
        for (path, old), new in zip(
            jax.tree_util.tree_leaves_with_path(model.params), jax.tree.leaves(tuned.params), strict=True
        )
        if np.any(old != new)
    }
    assert {name for name in moved if "norm" not in name} == {
        "head/kernel", "head/bias", *(f"layers/{i}/attention/{p}/kernel" for i in (0, 1) for p in "qv"),
    }  # fmt: skip
    assert tuned.architecture == model.architecture
    notes = tuned.provenance.record["training"]
    assert 0 < notes["merged_vs_unmerged"] < 1e-5
    assert notes["trainable_parameters"] == 2 * 2 * 2 * 24 + 5 * 24 + 26  # adapters, norms, head
    assert notes["bytes"]["moments"] == 8 * notes["trainable_parameters"]
    # The adapter's folder on the untouched base gives the merged model.
    again = jp.load_adapter(model, tmp_path / "adapter")
    for ours, theirs in zip(jax.tree.leaves(again.params), jax.tree.leaves(tuned.params), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


# --- folders of PEFT; tests/parity loads them in the library itself


@pytest.fixture
def adapted():
    model = ragged(tiny.random_model(tiny.config("bert")))
    plan = plan_of(
        jp.Lora(rank=2, projections=("q", "o", "down"), rank_pattern=("*/down=3",), alpha_pattern=("*/o=1",)),
        model.architecture,
    )
    return model, filled(adapters_of(plan, model.architecture))


def test_a_folder_has_the_names_shapes_and_patterns_of_peft(adapted, tmp_path):
    model, adapters = adapted
    folder = write_peft(tmp_path / "adapter", model, adapters, ["head/kernel", "head/bias"])
    assert sorted(path.name for path in folder.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    tensors = load_file(folder / "adapter_model.safetensors")
    at = "base_model.model.bert.encoder.layer"
    assert {name: tensor.shape for name, tensor in tensors.items()} == {
        f"{at}.0.attention.self.query.lora_A.weight": (2, 12),
        f"{at}.0.attention.self.query.lora_B.weight": (4, 2),  # one head of width 4 is left
        f"{at}.0.attention.output.dense.lora_A.weight": (2, 4),
        f"{at}.0.attention.output.dense.lora_B.weight": (12, 2),
        f"{at}.0.output.dense.lora_A.weight": (3, 6),
        f"{at}.0.output.dense.lora_B.weight": (12, 3),
        f"{at}.1.output.dense.lora_A.weight": (3, 10),
        f"{at}.1.output.dense.lora_B.weight": (12, 3),
        "base_model.model.classifier.weight": (3, 12),
        "base_model.model.classifier.bias": (3,),
    }
    pair = adapters.weights[0]["attention"]["q"]
    ours = tensors[f"{at}.0.attention.self.query.lora_B.weight"] @ tensors[f"{at}.0.attention.self.query.lora_A.weight"]
    np.testing.assert_allclose(ours.T, np.asarray(pair["a"]) @ np.asarray(pair["b"]).reshape(2, 4), atol=1e-6)
    config = json.loads((folder / "adapter_config.json").read_text())
    modules = ["0.attention.self.query", "0.attention.output.dense", "0.output.dense", "1.output.dense"]
    assert (config["peft_type"], config["task_type"], config["r"]) == ("LORA", "SEQ_CLS", 3)
    assert config["target_modules"] == sorted(f"bert.encoder.layer.{name}" for name in modules)
    assert config["rank_pattern"] == {f"bert.encoder.layer.{name}": 2 for name in modules[:2]}
    assert config["alpha_pattern"] == {"bert.encoder.layer.0.attention.output.dense": 1.0}
    assert config["modules_to_save"] == ["classifier"]


def test_a_folder_reads_back_as_it_was(adapted, tmp_path):
    model, adapters = adapted
    write_peft(tmp_path / "adapter", model, adapters, ["head/kernel"])
    bare = model.replace(params={**model.params, "head": jax.tree.map(jnp.zeros_like, model.params["head"])})
    base, again = read_peft(tmp_path / "adapter", bare)
    np.testing.assert_array_equal(base.params["head"]["kernel"], model.params["head"]["kernel"])
    jax.tree.map(np.testing.assert_array_equal, again, adapters)
    write_peft(tmp_path / "adapter", model, adapters, ["head/kernel"], again=True)  # a run that goes on writes its own
    with pytest.raises(OutputError, match="is not an empty folder"):
        write_peft(tmp_path / "adapter", model, adapters)


def test_an_adapter_of_another_cut_names_the_projection(adapted, tmp_path):
    model, adapters = adapted
    write_peft(tmp_path / "adapter", model, adapters)
    with pytest.raises(CheckpointError, match=r"projection layers/0/attention/o .* is \[2, 4\], expected \[2, 12\]"):
        jp.load_adapter(tiny.random_model(tiny.config("bert")), tmp_path / "adapter")
    shallow = model.architecture.with_layers(model.architecture.layers[:1])
    with pytest.raises(
        CheckpointError, match="adapts bert.encoder.layer.1.output.dense, which the model does not have"
    ):
        jp.load_adapter(
            replace(model, architecture=shallow, params={**model.params, "layers": model.params["layers"][:1]}),
            tmp_path / "adapter",
        )


@pytest.mark.parametrize(
    "change, says",
    [
        ({"peft_type": "IA3"}, "peft_type 'IA3', expected LORA"),
        ({"use_dora": True}, "sets use_dora"),
        ({"bias": "some"}, "bias to 'some'"),
        ({"rank_pattern": {}}, "rank 3, its tensors have 2"),
    ],
)
def test_kinds_of_adapters_that_we_do_not_compute_are_refused(adapted, tmp_path, change, says):
    model, adapters = adapted
    folder = write_peft(tmp_path / "adapter", model, adapters)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | change))
    with pytest.raises(CheckpointError, match=says):
        jp.load_adapter(model, folder)


@pytest.mark.parametrize("damage, says", [("half", "is incomplete at projection"), ("cut", "missing or damaged")])
def test_damaged_folders_are_refused(adapted, tmp_path, damage, says):
    model, adapters = adapted
    folder = write_peft(tmp_path / "adapter", model, adapters)
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    if damage == "half":
        tensors.pop(next(name for name in tensors if "lora_B" in name))
        save_file(tensors, file)
    else:
        file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=says):
        jp.load_adapter(model, folder)


def test_nothing_is_left_of_a_folder_that_the_disk_refused(adapted, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("jaxprune.finetuning.peft.save_file", full)
    with pytest.raises(OutputError, match="cannot be written .No space left on device"):
        write_peft(tmp_path / "adapter", *adapted)
    assert list(tmp_path.iterdir()) == []


def test_count_counts_numbers(adapted):
    assert count(adapted[1].weights) == 2 * (12 + 4) + 2 * (4 + 12) + 3 * (6 + 12) + 3 * (10 + 12)
