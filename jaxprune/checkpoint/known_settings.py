"""Which settings of a config.json are understood, harmless, or may change the result unknown to us."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from ..errors import CheckpointError, SettingsError, UnknownSettingError
from .families import Family
from .rotary import KEYS, MADE_FOR, by_type, renamed, unread_settings

# Keys of config.json that leave the logits as they are: bookkeeping, training, generation, the choice among programs
# that compute the same. Biases show in the tensors, where a family has no key for them.
_HARMLESS = frozenset(
    """
    architectures model_type transformers_version torch_dtype dtype name name_or_path finetuning_task
    task_specific_params language license tags tokenizer_class model_max_length max_seq_length do_lower_case revision
    n_gpu attn_implementation sentence_transformers sbert_ce_default_activation_function
    id2label label2id num_labels problem_type
    summary_type summary_use_proj summary_activation summary_first_dropout summary_proj_to_labels xla_device
    use_cache gradient_checkpointing initializer_range initializer_factor chunk_size_feed_forward torchscript
    use_bfloat16 tf_legacy_loss output_attentions output_hidden_states output_past return_dict use_return_dict
    attention_probs_dropout_prob attention_dropout classifier_dropout qa_dropout seq_classif_dropout
    hidden_dropout_prob dropout sinusoidal_pos_embds tie_word_embeddings tie_encoder_decoder tie_weights_
    cross_attention_hidden_size pad_token_id pretraining_tp max_window_layers sliding_window
    n_ctx attn_pdrop embd_pdrop reorder_and_upcast_attn layerdrop init_std activation_dropout
    directionality pooler_fc_size pooler_num_attention_heads pooler_num_fc_layers pooler_size_per_head pooler_type
    bos_token_id eos_token_id sep_token_id cls_token_id mask_token_id unk_token_id decoder_start_token_id prefix
    min_length max_length do_sample early_stopping num_beams num_beam_groups diversity_penalty temperature top_k top_p
    typical_p repetition_penalty length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids
    num_return_sequences output_scores return_dict_in_generate forced_bos_token_id forced_eos_token_id
    remove_invalid_values exponential_decay_length_penalty suppress_tokens begin_suppress_tokens
    attention_bias mlp_bias is_llama_config unsloth_fixed unsloth_version transformers.js_config neftune_noise_alpha
    max_sequence_length max_seq_len seq_length max_tokens max_new_tokens min_new_tokens min_p penalty_alpha
    renormalize_logits chat_template padding padding_side truncation truncation_side tokenizer_name mlm_probability
    emb_size cell structure pre_trained training loss_type loss_function label_smoothing seed learning_rate
    model_name base_model base_model_name_or_path author description version library_name pipeline_tag datasets metrics
    use_flash_attention use_flash_attention_2 use_flash_attn flash_attn use_sdpa use_fused_rms_norm use_fused_rope
    low_cpu_mem_usage device_map cache_implementation
    decoder_bias sparse_prediction sparse_pred_ignore_index deterministic_flash_attn reference_compile
    repad_logits_with_grad
    encoder_stride pooler_output_size pooler_act image_processor_type feature_extractor_type
    """.split()
)
_HARMLESS_PATTERNS = ("_*", "*dropout*", "*_pdrop", "*initializer*")

# Settings of other families, or of programs that build on one of ours, at the values that leave the mathematics alone.
_OFF: Mapping[str, tuple[Any, ...]] = {
    **dict.fromkeys(
        """
        use_mrope rope_interleaved qk_norm use_qk_norm qk_layernorm use_qk_layernorm scale_embedding scale_embeddings
        use_parallel_residual parallel_attn alibi use_alibi multi_query new_decoder_architecture use_moe is_moe
        use_sliding_window lm_head_bias
        """.split(),
        (False,),
    ),
    **dict.fromkeys(
        "logit_scale logits_scaling embedding_multiplier residual_multiplier rotary_pct "
        "full_attn_mod interpolate_factor".split(),
        (1,),
    ),
    **dict.fromkeys("num_experts num_local_experts n_routed_experts".split(), (0, 1)),
    "position_embedding_type": ("absolute",),
}


def settings_as_read(family: Family, config: Mapping[str, Any]) -> dict[str, Any]:
    """`config` with its model_type, and every size under the one key that the family's row has.

    An alias wins over that key, as in transformers.
    """
    renamed = {key: config[alias] for alias, key in family.aliases.items() if config.get(alias) is not None}
    others = {name: value for name, value in config.items() if name not in family.aliases}
    return others | renamed | {"model_type": family.model_type}


def without(config: Mapping[str, Any], names: Sequence[str], where: str) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """`config` without the settings that the caller wants ignored ("key", or "rope_scaling.key"), and warnings.

    Raises `SettingsError` for anything but a list of names.
    """
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise SettingsError(f"ignore_config_keys is {names!r}, expected a list of names.")
    warnings = []
    for name in names:
        outer, _, inner = name.partition(".")
        if name in config:
            given, config = config[name], {key: value for key, value in config.items() if key != name}
        elif inner and isinstance(config.get(outer), Mapping) and inner in config[outer]:
            given = config[outer][inner]
            config = {**config, outer: {key: value for key, value in config[outer].items() if key != inner}}
        else:
            warnings.append(f"{where} has no setting {name} to ignore.")
            continue
        warnings.append(f"{where}: {name} = {str(given)[:60]!r} was ignored, as asked; the result may differ for it.")
    return config, tuple(warnings)


def check_settings(family: Family, config: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """Warnings of settings without effect. Raises `CheckpointError` for what changes the result and is not supported.

    Of settings that are not known, `UnknownSettingError` names all.
    """
    pinned = [
        f"{key} is {str(config[key])[:60]!r}, of a {family.model_type} model only {expected!r} is supported"
        for key, expected in family.pinned.items()
        if key in config
        and config[key] not in (expected, None)
        and not (key == "auto_map" and _known_code(family, config))
    ]
    if pinned:
        raise CheckpointError(f"{where}: {'; '.join(pinned)}, because it changes the result.")
    rotary = family.switches.get("positions") == "rotary"
    nested, warnings = _unread_rotary(family, config, where) if rotary else ({}, ())
    known = _HARMLESS | set(family.keys.values()) | family.pinned.keys() | {"layer_types", *(KEYS if rotary else ())}
    known |= {key for key, _ in family.rotary_bases.values()} | {family.full_every[0] if family.full_every else None}
    known |= {*(family.unturned or ())[:2]}
    unknown = {name: value for name, value in config.items() if name not in known and not _harmless(name, value)}
    unknown |= nested
    if unknown:
        told = ", ".join(f"{name} = {str(value)[:60]!r}" for name, value in unknown.items())
        one = len(unknown) == 1
        error = UnknownSettingError(
            f"{where}: the setting{'' if one else 's'} {told} {'is' if one else 'are'} not known for "
            f"{family.model_type} and may change the result; if you are sure that {'it does' if one else 'they do'} "
            f"not, delete {'it' if one else 'them'} from the file or have {'it' if one else 'them'} ignored.",
            list(unknown),
        )
        # A note shows in a traceback, beside the code that can follow it, and not on the command line.
        error.add_note(f"ignore_config_keys={list(unknown)} reads the file as if it had no such setting.")
        raise error
    return warnings


def _known_code(family: Family, config: Mapping[str, Any]) -> bool:
    """True where auto_map names what a model of the family is anyway; which tokenizer it names is no part of that."""
    classes = config["auto_map"]
    return isinstance(classes, Mapping) and all(
        isinstance(name, str)
        and (auto == "AutoTokenizer" or any(fnmatchcase(name, pattern) for pattern in family.published_code))
        for auto, name in classes.items()
    )


def _unread_rotary(family: Family, config: Mapping[str, Any], where: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    if not family.rotary_bases:
        return unread_settings(renamed(config, family.rotary_names, where, family.defaults.get(MADE_FOR)), where)
    nested, warnings = {}, []
    for kind, own in by_type(config, family.rotary_bases, family.scaled_types, where).items():
        unread, told = unread_settings(own, f"{where}, {kind}")
        nested |= {f"{kind}: {name}": value for name, value in unread.items()}
        warnings.extend(told)
    return nested, tuple(warnings)


def _harmless(name: str, value: Any) -> bool:
    switched_off = value is None or (isinstance(value, (list, dict, str)) and not value)
    at_rest = any(value == off and isinstance(value, bool) == isinstance(off, bool) for off in _OFF.get(name, ()))
    return switched_off or at_rest or any(fnmatchcase(name, pattern) for pattern in _HARMLESS_PATTERNS)
