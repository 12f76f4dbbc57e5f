"""Adapter folders against the PEFT library itself, live; run by `make parity`."""

import numpy as np
import pytest

pytest.importorskip("peft", reason="live parity needs peft: make parity installs it")

import jax
import jax.numpy as jnp
import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict

import jaxprune as jp
from jaxprune.finetuning.lora import adapters_of, merged, plan_of
from jaxprune.finetuning.peft import write_peft
from jaxprune.pruning.cut import cut
from tests.parity.reference import CLOSE, random_reference

pytestmark = pytest.mark.filterwarnings("ignore")  # those of torch, transformers and peft are not ours to fix

IDS = np.arange(22).reshape(2, 11) % 20 + 3


def logits(reference) -> np.ndarray:
    with torch.no_grad():
        return reference.eval()(input_ids=torch.tensor(IDS)).logits.numpy()


def trained_like(model: jp.Model, projections, **settings):
    """Adapters and norms as after training: every number drawn anew."""
    random = np.random.RandomState(7)
    draw = lambda leaf: jnp.asarray(random.normal(0, 0.3, np.shape(leaf)), jnp.float32)  # noqa: E731
    adapters = adapters_of(
        plan_of(jp.Lora(rank=2, projections=projections, **settings), model.architecture), model.architecture
    )
    params = jax.tree.map(lambda leaf: leaf, model.params)
    params["head"] = jax.tree.map(draw, params["head"])
    for layer in params["layers"]:
        own = {name: jax.tree.map(draw, leaf) for name, leaf in layer["attention"].items() if name == "norm"}
        layer["attention"] = {**layer["attention"], **own}
    return model.replace(params=params), adapters._replace(weights=jax.tree.map(draw, adapters.weights))


def paths_of(model: jp.Model) -> list[str]:
    flat = jax.tree_util.tree_leaves_with_path(model.params)
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in flat]
    return [name for name in names if name.startswith(("head/", "pooler/")) or "attention/norm/" in name]


@pytest.mark.parametrize(
    "family",
    [
        "bert",
        "roberta",
        "distilbert",
        "electra",
        "mpnet",
        "deberta-v2",
        "opt",
        "gpt2",
        "llama",
        "qwen3",
        "gemma2",
        "phi3",
        "modernbert",
    ],
)
def test_peft_loads_our_folder_to_the_same_logits(tmp_path, family):
    reference = random_reference(family, "classification", seed=1)
    reference.save_pretrained(tmp_path / "base")
    model, adapters = trained_like(
        jp.load(tmp_path / "base"), ("q", "k", "v", "o", "up", "down"),
        rank_pattern=("layers/1/*=3", "*/down=1"), alpha_pattern=("layers/0/attention/q=5",), rslora=True,
    )  # fmt: skip
    write_peft(tmp_path / "adapter", model, adapters, paths_of(model))
    theirs = PeftModel.from_pretrained(reference, tmp_path / "adapter")
    np.testing.assert_allclose(logits(theirs), jp.logits(merged(model, adapters), IDS), **CLOSE)


def test_peft_loads_our_folder_onto_a_pruned_base(tmp_path):
    """The torch model is cut by hand to the same heads and neurons."""
    reference = random_reference("bert", "classification", seed=2)
    reference.save_pretrained(tmp_path / "base")
    dense = jp.load(tmp_path / "base")
    sizes = dense.architecture.layers[0]
    heads, neurons = np.arange(sizes.groups) != 1, np.arange(sizes.neurons) % 3 > 0
    small = cut(dense, [heads, neurons, np.ones(sizes.groups, bool), neurons])
    model, adapters = trained_like(
        small.replace(params=jax.tree.map(jnp.asarray, small.params)), ("q", "v", "o", "down")
    )
    write_peft(tmp_path / "adapter", model, adapters, paths_of(model))

    def shrink(linear, rows=None, columns=None):
        weight, bias = linear.weight.data, linear.bias.data
        if rows is not None:
            weight, bias = weight[rows], bias[rows]
        linear.weight.data = weight if columns is None else weight[:, columns]
        linear.bias.data = bias
        linear.out_features, linear.in_features = linear.weight.shape

    rows = torch.tensor(np.flatnonzero(np.repeat(heads, dense.architecture.head_width)))
    units = torch.tensor(np.flatnonzero(neurons))
    first = reference.bert.encoder.layer[0].attention
    for name in ("query", "key", "value"):
        shrink(getattr(first.self, name), rows=rows)
    shrink(first.output.dense, columns=rows)
    for layer in reference.bert.encoder.layer:
        shrink(layer.intermediate.dense, rows=units)
        shrink(layer.output.dense, columns=units)
    theirs = PeftModel.from_pretrained(reference, tmp_path / "adapter")
    np.testing.assert_allclose(logits(theirs), jp.logits(merged(model, adapters), IDS), **CLOSE)


def test_we_read_a_folder_that_peft_wrote(tmp_path):
    reference = random_reference("bert", "classification", seed=3)
    reference.save_pretrained(tmp_path / "base")
    config = LoraConfig(
        r=2, lora_alpha=6, target_modules=["query", "value"], task_type="SEQ_CLS", use_rslora=True,
        rank_pattern={"layer.1.attention.self.query": 3}, alpha_pattern={"layer.0.attention.self.value": 2},
    )  # fmt: skip
    adapted = get_peft_model(reference, config)
    torch.manual_seed(0)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.3)
    adapted.save_pretrained(tmp_path / "adapter")
    ours = jp.load_adapter(jp.load(tmp_path / "base"), tmp_path / "adapter")
    np.testing.assert_allclose(jp.logits(ours, IDS), logits(adapted), **CLOSE)


# --- what others' adapters may look like


def random_adapter(reference, **settings):
    """PEFT's model with every trainable number drawn anew."""
    adapted = get_peft_model(reference, LoraConfig(r=2, lora_alpha=6, **settings))
    torch.manual_seed(0)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.3)
    return adapted


def saved_adapter(folder, family, head, **settings):
    """Base and adapter in folders, as PEFT writes them; PEFT's logits."""
    reference = random_reference(family, head, seed=3)
    reference.save_pretrained(folder / "base")
    adapted = random_adapter(reference, **settings)
    adapted.save_pretrained(folder / "adapter")
    return logits(adapted)


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": "all-linear"},  # the pooler too
        {"target_modules": ["pooler.dense", "word_embeddings"]},
        {"target_modules": r".*layer\.1\..*(query|value)", "bias": "lora_only"},
        {"target_modules": ["query", "output.dense"], "exclude_modules": ["attention.output.dense"], "bias": "all"},
        {"target_modules": ["query"], "layers_to_transform": [1], "layers_pattern": "layer"},
        {
            "target_modules": ["query", "key"],
            "rank_pattern": {"^bert.encoder.layer.1.*": 3},
            "init_lora_weights": "mica",
        },
        {"target_modules": ["value"], "alpha_pattern": {"0.attention.self.value": 3}, "init_lora_weights": "gaussian"},
        {"target_modules": ["query"], "modules_to_save": ["LayerNorm", "pooler"], "use_rslora": True},
        {"target_modules": ["query"], "rank_pattern": {"query": 40}},  # above the projection's width
    ],
    ids=lambda settings: ",".join(settings),
)
def test_kinds_of_plain_lora_give_pefts_logits(tmp_path, settings):
    theirs = saved_adapter(tmp_path, "bert", "classification", task_type="SEQ_CLS", **settings)
    ours = jp.load_adapter(jp.load(tmp_path / "base"), tmp_path / "adapter")
    np.testing.assert_allclose(jp.logits(ours, IDS), theirs, **CLOSE)
    assert not ours.provenance.warnings


@pytest.mark.parametrize("fan_in_fan_out", [True, False])
def test_conv1d_and_its_three_projections_in_one_give_pefts_logits(tmp_path, fan_in_fan_out):
    modules = {"target_modules": ["c_attn", "c_proj", "c_fc"], "bias": "lora_only", "modules_to_save": ["ln_1"]}
    theirs = saved_adapter(
        tmp_path, "gpt2", "causal_lm", task_type="CAUSAL_LM", fan_in_fan_out=fan_in_fan_out, **modules
    )
    ours = jp.load_adapter(jp.load(tmp_path / "base"), tmp_path / "adapter")
    np.testing.assert_allclose(jp.logits(ours, IDS), theirs, **CLOSE)


@pytest.mark.parametrize(("head", "kind"), [("causal_lm", "CAUSAL_LM"), ("classification", "SEQ_CLS")])
def test_grouped_queries_give_pefts_logits(tmp_path, head, kind):
    theirs = saved_adapter(tmp_path, "llama", head, task_type=kind, target_modules="all-linear")
    ours = jp.load_adapter(jp.load(tmp_path / "base"), tmp_path / "adapter")
    np.testing.assert_allclose(jp.logits(ours, IDS), theirs, **CLOSE)


@pytest.mark.parametrize("named", [False, True])
def test_pickled_adapters_are_read_with_and_without_a_name_in_their_keys(tmp_path, named):
    """As older versions wrote them, and as a state dict comes out of the model."""
    reference = random_reference("bert", "classification", seed=3)
    reference.save_pretrained(tmp_path / "base")
    adapted = random_adapter(reference, target_modules=["query", "value"], task_type="SEQ_CLS")
    adapted.save_pretrained(tmp_path / "adapter")
    (tmp_path / "adapter" / "adapter_model.safetensors").unlink()
    whole = adapted.state_dict()
    state = {
        name: tensor for name, tensor in whole.items() if "lora_" in name or "classifier." in name
    } if named else get_peft_model_state_dict(adapted)  # fmt: skip
    torch.save(state, tmp_path / "adapter" / "adapter_model.bin")
    ours = jp.load_adapter(jp.load(tmp_path / "base"), tmp_path / "adapter")
    np.testing.assert_allclose(jp.logits(ours, IDS), logits(adapted), **CLOSE)


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
def test_peft_loads_a_folder_of_adapters_and_norms_alone(tmp_path, family):
    """PEFT looks for the head's modules whether they trained or not."""
    reference = random_reference(family, "classification", seed=1)
    reference.save_pretrained(tmp_path / "base")
    base = jp.load(tmp_path / "base")
    model, adapters = trained_like(base, ("q", "v"))
    model = model.replace(params={**model.params, "head": base.params["head"]})
    write_peft(tmp_path / "adapter", model, adapters, [path for path in paths_of(model) if "norm" in path])
    theirs = PeftModel.from_pretrained(reference, tmp_path / "adapter")
    np.testing.assert_allclose(logits(theirs), jp.logits(merged(model, adapters), IDS), **CLOSE)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_adapters_merge_into_bases_of_half_precision(tmp_path, dtype):
    """What PEFT merges in that type and what we do differ by one rounding of a weight."""
    reference = random_reference("bert", "classification", seed=3).to(getattr(torch, dtype))
    reference.save_pretrained(tmp_path / "base")
    adapted = random_adapter(reference, target_modules="all-linear", task_type="SEQ_CLS")
    adapted.save_pretrained(tmp_path / "adapter")
    base = jp.load(tmp_path / "base")
    base = base.replace(params=jax.tree.map(lambda leaf: leaf.astype(dtype), base.params))
    ours = jp.load_adapter(base, tmp_path / "adapter")
    assert {leaf.dtype.name for leaf in jax.tree.leaves(ours.params)} == {dtype}
    weights = adapted.merge_and_unload().state_dict()
    theirs = weights["bert.encoder.layer.1.attention.self.query.weight"].float().numpy().T
    kernel = np.asarray(ours.params["layers"][1]["attention"]["q"]["kernel"], np.float32).reshape(theirs.shape)
    np.testing.assert_allclose(kernel, theirs, rtol=2**-7 if dtype == "bfloat16" else 2**-10, atol=1e-3)


def test_all_linear_layers_of_deberta_give_pefts_logits(tmp_path):
    """Those that project distances among them."""
    reference = random_reference("deberta-v2", "classification", seed=3, share_att_key=False)
    reference.save_pretrained(tmp_path / "base")
    theirs = random_adapter(reference, task_type="SEQ_CLS", target_modules="all-linear")
    theirs.save_pretrained(tmp_path / "adapter")
    ours = jp.load_adapter(jp.load(tmp_path / "base"), tmp_path / "adapter")
    np.testing.assert_allclose(jp.logits(ours, IDS), logits(theirs), **CLOSE)


def test_a_token_classifiers_adapter_with_its_head_is_read(tmp_path):
    theirs = saved_adapter(
        tmp_path, "bert", "token_classification", task_type="TOKEN_CLS", target_modules=["query", "value"]
    )
    ours = jp.load_adapter(jp.load(tmp_path / "base"), tmp_path / "adapter")
    np.testing.assert_allclose(jp.logits(ours, IDS), theirs, **CLOSE)
