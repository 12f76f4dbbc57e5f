import json

import pytest

from jaxprune.checkpoint import load, save
from jaxprune.checkpoint.config import architecture_from, family_of
from jaxprune.checkpoint.families import FAMILIES
from jaxprune.checkpoint.head_choice import declared_head
from jaxprune.checkpoint.known_settings import settings_as_read
from jaxprune.errors import CheckpointError, SettingsError, UnknownSettingError
from jaxprune.model.attention_kinds import Disentangled, Full, Relative
from tests.helpers import tiny

BERT = tiny.config("bert")


def refused(settings, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        tiny.architecture(settings)
    assert "\n" not in str(caught.value)


# --- what is read


def test_bert():
    a = tiny.architecture(BERT)
    assert (a.family, a.vocab, a.hidden, a.head_width, a.token_types, a.max_positions) == ("bert", 30, 12, 4, 2, 20)
    assert [(size.groups, size.queries, size.neurons) for size in a.layers] == [(3, 1, 10)] * 2
    assert (a.pooler, a.head, a.labels, a.problem) == ("tanh", "classification", ("a", "b", "c"), "single_label")
    assert (a.positions_count, a.position_offset, a.pad_id, a.norm_eps) == ("slots", 0, 0, 1e-12)


def test_roberta_positions_lie_behind_the_padding_row():
    a = tiny.architecture(tiny.config("roberta"))
    assert (a.pad_id, a.position_offset, a.max_positions, a.positions_count) == (1, 2, 18, "tokens")
    a = tiny.architecture(tiny.config("roberta", pad_token_id=4, layer_norm_eps=1e-5))
    assert (a.pad_id, a.position_offset, a.max_positions, a.norm_eps) == (4, 5, 15, 1e-5)


def test_electra_reads_narrow_embeddings():
    a = tiny.architecture(tiny.config("electra", embedding_size=5))
    assert (a.embed_width, a.embed_projects, a.output_width, a.pooler) == (5, "sum", 12, "gelu")
    assert tiny.architecture(tiny.config("electra", embedding_size=None)).embed_width == 128  # transformers' default
    assert tiny.architecture(tiny.config("electra", embedding_size=12)).embed_width is None
    refused(tiny.config("electra", embedding_size=0), "embedding_size is '0', expected an integer of at least 1")
    refused(tiny.config("electra", position_embedding_type="relative_key"), "only 'absolute' is supported")


def test_mpnet_counts_positions_and_distances_as_transformers_does():
    a = tiny.architecture(tiny.config("mpnet"))
    assert (a.pad_id, a.position_offset, a.max_positions, a.positions_count) == (1, 2, 18, "tokens")
    assert (a.token_types, a.attention) == (0, Relative(buckets=32, reach=128))
    refused(tiny.config("mpnet", pad_token_id=0), "pad_token_id is '0', of a mpnet model only 1 is supported")
    refused(tiny.config("mpnet", relative_attention_num_buckets=64), "relative_attention_num_buckets is '64', of a mpn")
    refused(tiny.config("bert", relative_attention_num_buckets=32), "relative_attention_num_buckets = '32' is not")


def test_deberta_compares_distances_as_transformers_does():
    a = tiny.architecture(tiny.config("deberta-v2", pos_att_type="C2P | p2c", norm_rel_ebd="none | layer_norm"))
    assert a.attention == Disentangled(reach=20, buckets=4, norm=True) and a.attention_scale == (4 * 3) ** -0.5
    assert (a.positions, a.token_types, a.pooler, a.norm_eps) == ("none", 0, "gelu", 1e-7)
    silent = {"position_buckets": None, "max_relative_positions": 9, "norm_rel_ebd": None, "share_att_key": True}
    a = tiny.architecture(tiny.config("deberta-v2", pos_att_type="p2c", position_biased_input=None, **silent))
    assert a.attention == Disentangled(reach=9, keys=False, shared=True) and a.positions == "learned"
    # The scores' scale follows the kinds that are named, also where distances are not compared.
    a = tiny.architecture(tiny.config("deberta-v2", relative_attention=None, norm_rel_ebd=None))
    assert a.attention == Full() and a.attention_scale == (4 * 3) ** -0.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"conv_kernel_size": 3}, "conv_kernel_size is '3', of a deberta-v2 model only 0 is supported"),
        ({"pos_att_type": ["c2p", "p2p"]}, r"pos_att_type is .*p2p.*, expected some of c2p, p2c"),
        ({"norm_rel_ebd": "batch_norm"}, "norm_rel_ebd is 'batch_norm', expected layer_norm or none"),
        ({"attention_head_size": 6}, "attention_head_size is '6', of a model of these sizes only 4 is supported"),
        ({"pooler_hidden_size": 24}, "pooler_hidden_size is '24', of a model of these sizes only 12 is supported"),
        ({"pooler_hidden_act": "gelu_new"}, "pooler_hidden_act is 'gelu_new', expected one of gelu, tanh, relu"),
        ({"share_att_key": 1}, "share_att_key is '1', expected true or false"),
        ({"position_buckets": "many"}, "position_buckets is 'many', expected a number of buckets"),
        ({"position_buckets": 5}, "disentangled attention has 5 buckets a side"),
        ({"z_steps": 2}, "the setting z_steps = '2' is not known for deberta-v2"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_deberta_is_refused_for(changes, message):
    refused(tiny.config("deberta-v2", **changes), message)


@pytest.mark.parametrize(("name", "kind"), [("ElectraForPreTraining", "none"), ("ElectraForCausalLM", None)])
def test_the_heads_that_electra_was_trained_with(name, kind):
    """The discriminator's is left out, as BERT's are; a decoder is none of ours."""
    task = declared_head(FAMILIES["electra"], tiny.config("electra", architectures=[name]), "here")
    assert (None if task is None else task.head) == kind


def test_distilbert_has_other_keys_and_no_token_types():
    a = tiny.architecture(tiny.config("distilbert", activation="relu", dropout=0.3))
    assert (a.hidden, len(a.layers), a.token_types, a.activation, a.pooler, a.dropout) == (
        12,
        2,
        0,
        "relu",
        "relu",
        0.3,
    )


@pytest.mark.parametrize(
    "name, head",
    [
        ("BertForSequenceClassification", "classification"),
        ("FlaxBertForSequenceClassification", "classification"),
        ("BertForTokenClassification", "token_classification"),
        ("BertForQuestionAnswering", "question_answering"),
        ("BertModel", "none"),
        ("BertForMaskedLM", "masked_lm"),
        ("BertForPreTraining", "none"),
    ],
)
def test_the_class_says_the_head(name, head):
    task = declared_head(FAMILIES["bert"], {**BERT, "architectures": [name]}, "here")
    assert task is not None and task.head == head


@pytest.mark.parametrize("name", ["BertForMultipleChoice", "RobertaForSequenceClassification", "Model"])
def test_other_classes_say_nothing(name):
    assert declared_head(FAMILIES["bert"], {**BERT, "architectures": [name]}, "here") is None


def test_without_a_class_labels_say_the_head():
    silent = {key: value for key, value in BERT.items() if key != "architectures"}
    assert tiny.architecture(silent).head == "classification"
    del silent["id2label"]
    assert tiny.architecture(silent).head == "none"


@pytest.mark.parametrize(
    "changes, labels, problem",
    [
        ({"id2label": None}, ("LABEL_0", "LABEL_1"), "single_label"),
        ({"id2label": None, "num_labels": 4}, ("LABEL_0", "LABEL_1", "LABEL_2", "LABEL_3"), "single_label"),
        ({"id2label": {"1": "y", "0": "x"}}, ("x", "y"), "single_label"),
        ({"id2label": {str(n): n for n in range(11)}}, tuple(map(str, range(11))), "single_label"),
        ({"id2label": {"0": "score"}}, ("score",), "regression"),
        # A program set the count alone.
        (
            {"id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "num_labels": 3},
            ("LABEL_0", "LABEL_1", "LABEL_2"),
            "single_label",
        ),
        ({"id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "num_labels": 1}, ("LABEL_0",), "regression"),
        ({"id2label": {"0": "same", "1": "same"}}, ("same", "same"), "single_label"),  # data/fit.py matches by number
        ({"problem_type": "multi_label_classification"}, ("a", "b", "c"), "multi_label"),
    ],
)
def test_labels_and_problem(changes, labels, problem):
    a = tiny.architecture({**BERT, **changes})
    assert (a.labels, a.problem) == (labels, problem)


@pytest.mark.parametrize(
    "changes, warning",
    [
        ({"label2id": {"a": 0, "b": 1, "c": 2}}, None),
        ({"label2id": {"a": "0", "b": "1"}}, None),
        ({"label2id": {"LABEL_0": 0, "LABEL_1": 1}}, None),  # of other names: left behind
        ({"label2id": {"a": 1, "b": 0, "c": 2}}, "label2id gives labels other numbers than id2label, which counts"),
        ({"id2label": None, "num_labels": 3, "label2id": {"a": 0, "b": 1, "c": 2}}, "in label2id alone, which are not"),
        ({"id2label": None, "num_labels": 3, "label2id": {f"LABEL_{n}": n for n in range(3)}}, None),
    ],
)
def test_labels_in_another_order_are_warned_of(tmp_path, changes, warning):
    """id2label counts, as in transformers."""
    model = load(tiny.write(tmp_path / "model", {**BERT, **changes}, tiny.tensors(BERT)))
    assert [warning in told for told in model.provenance.warnings] == ([True] if warning else [])
    assert model.architecture.labels == (("a", "b", "c") if "id2label" not in changes else tiny_labels(3))


def tiny_labels(count):
    return tuple(f"LABEL_{number}" for number in range(count))


@pytest.mark.parametrize(
    "name, family",
    [
        ("BertModel", "bert"),
        ("XLMRobertaModel", "xlm-roberta"),
        ("LLaMAForCausalLM", "llama"),
        ("GPT2LMHeadModel", "gpt2"),
        ("Qwen2Model", "qwen2"),
    ],
)
def test_without_a_model_type_the_class_says_the_family(tmp_path, name, family):
    head = "causal_lm" if "LM" in name else "none"
    settings = tiny.config(family, head, architectures=[name])
    assert family_of({"architectures": [name]}, "config.json") is FAMILIES[family]
    silent = {key: value for key, value in settings.items() if key != "model_type"}
    model = load(tiny.write(tmp_path / "model", silent, tiny.tensors(settings)))
    assert model.architecture == tiny.architecture(settings)
    assert model.provenance.record["source_config"]["model_type"] == family  # an exported folder says it


def test_what_transformers_writes_beside_passes():
    tiny.architecture(
        {
            **BERT,
            "_name_or_path": "x",
            "transformers_version": "4.8.2",
            "use_cache": True,
            "chunk_size_feed_forward": 4,
            "position_embedding_type": "absolute",
            "is_decoder": False,
            "add_cross_attention": False,
            "pruned_heads": {},
            "auto_map": None,
            "some_future_key": None,
            "another_one": {},
        }
    )


# Keys of well-known checkpoints from several ages of transformers, beside the sizes.
PUBLISHED = {
    "bert": {
        "_num_labels": 5,
        "attention_probs_dropout_prob": 0.1,
        "directionality": "bidi",
        "finetuning_task": "sentiment-analysis",
        "hidden_act": "gelu",
        "initializer_range": 0.02,
        "output_past": True,
        "pooler_fc_size": 768,
        "pooler_num_attention_heads": 12,
        "pooler_num_fc_layers": 3,
        "pooler_size_per_head": 128,
        "pooler_type": "first_token_transform",
    },
    "roberta": {
        "bos_token_id": 0,
        "eos_token_id": 2,
        "gradient_checkpointing": False,
        "language": "english",
        "layer_norm_eps": 1e-05,
        "name": "Roberta",
        "sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"},
    },
    "xlm-roberta": {
        "bos_token_id": 0,
        "eos_token_id": 2,
        "layer_norm_eps": 1e-05,
        "output_past": True,
        "pad_token_id": 1,
        "position_embedding_type": "absolute",
        "use_cache": True,
        "classifier_dropout": None,
    },
    "camembert": {
        "bos_token_id": 5,
        "eos_token_id": 6,
        "layer_norm_eps": 1e-05,
        "output_past": True,
        "pad_token_id": 1,
    },
    "electra": {
        "attention_probs_dropout_prob": 0.1,
        "pad_token_id": 0,
        "position_embedding_type": "absolute",
        "summary_activation": "gelu",
        "summary_last_dropout": 0.1,
        "summary_type": "first",
        "summary_use_proj": True,
    },
    "mpnet": {
        "attention_probs_dropout_prob": 0.1,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "layer_norm_eps": 1e-05,
        "pad_token_id": 1,
        "relative_attention_num_buckets": 32,
    },
    "distilbert": {
        "attention_dropout": 0.1,
        "output_past": True,
        "qa_dropout": 0.1,
        "seq_classif_dropout": 0.2,
        "sinusoidal_pos_embds": False,
        "tie_weights_": True,
    },
}

PUBLISHED |= {
    "deberta-v2": {
        "attention_head_size": 4,
        "attention_probs_dropout_prob": 0.1,
        "layer_norm_eps": 1e-07,
        "legacy": True,
        "max_relative_positions": -1,
        "norm_rel_ebd": "layer_norm",
        "pooler_dropout": 0,
        "pooler_hidden_act": "gelu",
        "pooler_hidden_size": 12,
        "pos_att_type": "p2c|c2p",
        "position_biased_input": False,
        "position_buckets": 4,
        "relative_attention": True,
        "share_att_key": True,
    },
    "gemma2": {
        "attn_logit_softcapping": 50.0,
        "cache_implementation": "hybrid",
        "final_logit_softcapping": 30.0,
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": 256,
        "rope_theta": 10000.0,
        "sliding_window": 4096,
    },
    "smollm3": {
        "layer_types": ["full_attention"] * 2,
        "max_window_layers": 28,
        "no_rope_layer_interval": 4,
        "no_rope_layers": [1] * 2,
        "pretraining_tp": 2,
        "rope_scaling": None,
        "rope_theta": 5000000.0,
        "sliding_window": None,
        "use_sliding_window": False,
    },
    "olmo2": {"attention_bias": False, "attention_dropout": 0.0, "rope_scaling": None, "rope_theta": 500000},
    "phi3": {
        "auto_map": {
            "AutoConfig": "configuration_phi3.Phi3Config",
            "AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM",
            "AutoTokenizer": "Xenova/gpt-4o",
        },
        "embd_pdrop": 0.0,
        "full_attn_mod": 1,
        "interpolate_factor": 1,
        "lm_head_bias": False,
        "original_max_position_embeddings": 4096,
        "partial_rotary_factor": 0.5,
        "resid_pdrop": 0.0,
        "rope_scaling": {"long_factor": [2.0], "short_factor": [1.0], "type": "longrope"},
        "sliding_window": 262144,
    },
    "modernbert": {
        "classifier_activation": "gelu",
        "classifier_bias": False,
        "classifier_dropout": 0.0,
        "cls_token_id": 50281,
        "decoder_bias": True,
        "deterministic_flash_attn": False,
        "embedding_dropout": 0.0,
        "global_attn_every_n_layers": 3,
        "global_rope_theta": 160000.0,
        "hidden_activation": "gelu",
        "initializer_cutoff_factor": 2.0,
        "layer_norm_eps": 1e-05,
        "local_rope_theta": 10000.0,
        "mlp_dropout": 0.0,
        "norm_eps": 1e-05,
        "position_embedding_type": "absolute",
        "reference_compile": None,
        "sparse_pred_ignore_index": -100,
        "sparse_prediction": False,
    },
    "gemma3_text": {
        "attn_logit_softcapping": None,
        "cache_implementation": "hybrid",
        "final_logit_softcapping": None,
        "hidden_activation": "gelu_pytorch_tanh",
        "rope_local_base_freq": 10000,
        "rope_scaling": None,
        "rope_theta": 1000000,
        "sliding_window": 512,
        "sliding_window_pattern": 6,
    },
}


@pytest.mark.parametrize("family", PUBLISHED)
def test_keys_of_well_known_checkpoints_pass(family):
    assert tiny.architecture(tiny.config(family, **PUBLISHED[family])).family == family


def test_code_of_others_than_transformers_is_refused():
    code = {"AutoModelForCausalLM": "modeling_own.Phi3ForCausalLM"}
    refused(tiny.config("phi3", auto_map=code), "auto_map is .*, of a phi3 model only None is supported")


# Keys that other programs leave in config.json, and switches of other families at rest.
HARMLESS = {
    "llama": {
        "use_mrope": False,
        "rope_interleaved": False,
        "is_llama_config": True,
        "unsloth_fixed": True,
        "max_sequence_length": 2048,
        "transformers.js_config": {"dtype": "q4"},
        "neftune_noise_alpha": 5.0,
        "resid_dropout": 0.1,
        "partial_rotary_factor": 1.0,
    },
    "mistral": {"attention_bias": False, "mlp_bias": False, "use_sliding_window": False, "num_experts": 0},
    "bert": {
        "padding": "max_length",
        "emb_size": 312,
        "cell": {},
        "structure": [],
        "pre_trained": "",
        "training": "",
        "classifier_dropout_prob": 0.2,
    },
    "distilbert": {"position_embedding_type": "absolute"},
}


@pytest.mark.parametrize("family", HARMLESS)
def test_keys_that_no_code_reads_and_switches_at_rest_pass(family):
    expected = tiny.architecture(tiny.config(family))
    assert tiny.architecture(tiny.config(family, **HARMLESS[family])) == expected


@pytest.mark.parametrize(
    "family, changes",
    [("distilbert", {"hidden_size": 24, "num_attention_heads": 4}), ("gpt2", {"hidden_size": 24, "n_layer": 7})],
)
def test_other_names_of_a_size_win(family, changes):
    """As transformers reads them (its attribute_map)."""
    a = tiny.architecture(settings_as_read(FAMILIES[family], tiny.config(family, **changes, num_hidden_layers=3)))
    assert (a.hidden, a.head_width, len(a.layers)) == (24, 24 // changes.get("num_attention_heads", 3), 3)


# --- what is refused


@pytest.mark.parametrize("names", [None, ["MyModel"], ["Qwen2MoeModel"], ["BertGenerationEncoder"]])
def test_a_missing_family_says_what_to_add(names):
    with pytest.raises(
        CheckpointError, match='has no model_type, and no class .*; add "model_type": and one of bert, r'
    ):
        family_of({"architectures": names}, "config.json")


@pytest.mark.parametrize("inner", ["0_Transformer", "0_BERT"])
@pytest.mark.parametrize("outer", [None, {"__version__": "0.2.5"}])
def test_folders_of_old_sentence_transformers_point_at_the_model_in_them(tmp_path, inner, outer):
    tiny.write(tmp_path / inner, tiny.config("bert", "none"), tiny.tensors(tiny.config("bert", "none")))
    if outer is not None:
        (tmp_path / "config.json").write_text(json.dumps(outer))
    with pytest.raises(CheckpointError, match=rf"but a folder of one .*; give \S+/{inner}\."):
        load(tmp_path)
    assert load(tmp_path / inner).architecture.family == "bert"


@pytest.mark.parametrize("model_type", ["gpt_neox", ["bert"], "BERT"])
def test_an_unknown_family_lists_the_known_ones(model_type):
    with pytest.raises(
        CheckpointError, match="supported are bert, roberta, distilbert, .*opt, .*; another family needs a row"
    ):
        family_of({"model_type": model_type}, "config.json")


@pytest.mark.parametrize(
    "changes",
    [
        {"is_decoder": True},
        {"add_cross_attention": True},
        {"position_embedding_type": "relative_key"},
        {"pruned_heads": {"0": [1]}},
        {"quantization_config": {"bits": 4}},
        {"quantization": {"group_size": 64, "bits": 4}},
        {"auto_map": {"AutoModel": "code.Model"}},
    ],
)
def test_settings_that_change_the_result_are_refused(changes):
    (key,) = changes
    refused({**BERT, **changes}, f"{key} is .* is supported, because it changes the result")


@pytest.mark.parametrize("value", [True, 3, "on", {"rank": 4}, False])
def test_settings_that_nobody_knows_are_refused(value):
    refused({**BERT, "talking_heads": value}, "the setting talking_heads = .* is not known for bert")


def test_all_unknown_settings_are_named_at_once_and_can_be_ignored(tmp_path):
    settings = {**BERT, "talking_heads": 3, "use_mrope": True, "num_experts": 8, "unsloth_fixed": True}
    folder = tiny.write(tmp_path / "model", settings, tiny.tensors(BERT))
    with pytest.raises(
        UnknownSettingError, match="the settings talking_heads = '3', use_mrope = 'True', num_e"
    ) as caught:
        load(folder)
    names = ["talking_heads", "use_mrope", "num_experts"]
    assert list(caught.value.names) == names and "\n" not in str(caught.value)
    assert "ignore_config_keys" not in str(caught.value) and "ignore_config_keys" in caught.value.__notes__[0]
    model = load(folder, ignore_config_keys=names)
    assert model.architecture == tiny.architecture(BERT)
    assert [name in " ".join(model.provenance.warnings) for name in names] == [True] * 3
    assert not set(names) & model.provenance.record["source_config"].keys()
    assert model.provenance.record["ignored_config_keys"] == names


def test_an_ignored_key_that_is_not_there_is_said_to_be_none(tmp_path):
    folder = tiny.write(tmp_path / "model", BERT, tiny.tensors(BERT))
    model = load(folder, ignore_config_keys=["talking_head"])
    assert "has no setting talking_head to ignore" in model.provenance.warnings[0]
    saved = save(load(folder), tmp_path / "saved")
    assert "no setting talking_head" in load(saved, ignore_config_keys=["talking_head"]).provenance.warnings[0]
    with pytest.raises(SettingsError, match="ignore_config_keys is 'talking_head', expected a list of names"):
        load(folder, ignore_config_keys="talking_head")


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"hidden_act": "mish"}, "activation 'mish' is not supported, only gelu"),
        ({"hidden_act": 3}, "hidden_act is '3', expected a name"),
        ({"hidden_size": None}, "hidden_size is 'None', expected an integer of at least 1"),
        ({"hidden_size": "12"}, "hidden_size is '12', expected an integer"),
        ({"hidden_size": 12.0}, "hidden_size is '12.0', expected an integer"),
        ({"hidden_size": 13}, "3 heads do not divide the hidden size 13"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is '0', expected an integer of at least 1"),
        ({"vocab_size": True}, "vocab_size is 'True'"),
        ({"layer_norm_eps": -1.0}, "layer_norm_eps is '-1.0', expected a number of at least 0"),
        ({"architectures": "BertModel"}, "expected a list of class names"),
        ({"id2label": ["a", "b"]}, "expected names for 0, 1, 2"),
        ({"id2label": {"0": "a", "2": "b"}}, "expected names for 0, 1, 2"),
        ({"num_labels": 2}, "num_labels is 2, but id2label names 3"),
        ({"id2label": None, "num_labels": 0.5}, "num_labels is '0.5'"),
        ({"problem_type": "ranking"}, "problem_type is 'ranking'"),
        ({"problem_type": "regression"}, "a regression onto 3 values"),
    ],
)
def test_values_that_make_no_sense_are_named(changes, message):
    refused({**BERT, **changes}, message)


def test_roberta_needs_more_positions_than_its_offset():
    refused(tiny.config("roberta", max_position_embeddings=2), "max_position_embeddings is 2, expected more than 2")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"model_type": NaN}'])
def test_a_malformed_file_is_named(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match="config.json (is not valid JSON|holds a)"):
        load(tmp_path)


def test_a_folder_without_config(tmp_path):
    with pytest.raises(CheckpointError, match=r"config\.json is missing; give a checkpoint's folder"):
        load(tmp_path)


def test_every_row_of_the_table_is_consistent():
    for name, family in FAMILIES.items():
        assert family.model_type == name
        assert set(family.heads) in (
            {"classification", "token_classification", "question_answering", "masked_lm"},
            {"causal_lm", "classification"},
            {"classification"},  # of images
        )
        settings = json.loads(json.dumps(tiny.config(name)))
        task = declared_head(family, settings, "here")
        assert task is not None
        assert architecture_from(family, settings, task, "here").family == name
        assert set(family.defaults) <= set(family.keys.values()) | {
            "head_dim",
            "attention_bias",
            "mlp_bias",
            "pad_token_id",
            "rope_theta",
            "original_max_position_embeddings",
        }
