"""What an adapter_config.json may say: every key is read, harmless, or refused by name, as those of a config.json are.

Checked against PEFT 0.21, `tuners/lora/config.py`. What only says how training starts (a configuration of LoftQ or EVA)
is harmless: the tensors say where it ended.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..checkpoint.files import ADAPTER, inside, listed, read_json
from ..errors import CheckpointError
from .lora import Size

CONFIG = ADAPTER
RANK = ALPHA = 8  # where the file is silent, as in PEFT

READ = frozenset(
    """
    peft_type task_type base_model_name_or_path r lora_alpha use_rslora rank_pattern alpha_pattern bias
    target_modules exclude_modules layers_to_transform layers_pattern modules_to_save init_lora_weights
    ensure_weight_tying
    """.split()
)
# fan_in_fan_out says how the base keeps its weights; factors are stored the same way whatever it says.
HARMLESS = frozenset(
    """
    auto_mapping peft_version inference_mode revision lora_dropout fan_in_fan_out megatron_core runtime_config
    qalora_group_size loftq_config eva_config corda_config lora_ga_config velora_config
    """.split()
)
REFUSED: Mapping[str, str] = {
    "use_dora": "scales the columns of the adapted weight",
    "use_qalora": "pools what the adapter reads",
    "use_bdlora": "has factors in blocks",
    "kasa_config": "cuts the base model's weights down first",
    "monteclora_config": "draws adapters at random",
    "arrow_config": "chooses adapters token by token",
    "alora_invocation_tokens": "adapts some tokens only",
    "lora_bias": "adds a bias of its own",
    "layer_replication": "repeats layers of the base model",
    "target_parameters": "adapts parameters that are no modules",
    "trainable_token_indices": "trains single rows of the embeddings",
    "megatron_config": "adapts Megatron's layers",
    "enable_lora": "adapts parts of a module, in the way of PEFT before 0.3",
}
STARTS = (True, False, None, "gaussian", "eva", "orthogonal", "mica")  # of the factors, which leave the base as it is
BIASES = ("none", "all", "lora_only")


def read_config(folder: Path) -> dict[str, Any]:
    """The adapter_config.json of a folder. Raises `CheckpointError` for one that is not plain LoRA, naming the key."""
    config, where = read_json(inside(folder, CONFIG), "give a PEFT folder"), folder / CONFIG
    if config.get("peft_type") != "LORA":
        raise CheckpointError(f"{where} has peft_type {config.get('peft_type')!r}, expected LORA.")
    for key, why in REFUSED.items():
        if config.get(key):
            raise CheckpointError(f"{where} sets {key}, which {why}; only plain LoRA is read: merge it with PEFT.")
    unknown = [key for key, value in config.items() if key not in READ | HARMLESS | REFUSED.keys() and value]
    if unknown:
        raise CheckpointError(
            f"{where} sets {listed(unknown)}, which this version does not know and which may change what the adapter "
            "does; merge it with PEFT."
        )
    start = config.get("init_lora_weights")
    if not (isinstance(start, (str, bool)) or start is None) or start not in STARTS:
        raise CheckpointError(
            f"{where} sets init_lora_weights to {start!r}, which changes the base model's weights before training, so "
            "that the adapter fits none but those; save it with PEFT's path_initial_model_for_weight_conversion."
        )
    if config.get("bias", "none") not in BIASES:
        raise CheckpointError(f"{where} sets bias to {config['bias']!r}, expected {', '.join(BIASES)}.")
    return config


def size_of(config: Mapping[str, Any], module: str, rank: int) -> Size:
    """Rank and alpha as PEFT reads them: a pattern is a regular expression for the end of a module's name."""

    def pattern(name: str, otherwise: Any) -> Any:
        entries = config.get(name) or {}
        return next((value for key, value in entries.items() if _matches(rf"(.*\.)?({key})$", module)), otherwise)

    declared = pattern("rank_pattern", config.get("r", RANK))
    if declared != rank:
        raise CheckpointError(f"{CONFIG} gives {module} rank {declared}, its tensors have {rank}; copy it anew.")
    return Size(rank, float(pattern("alpha_pattern", config.get("lora_alpha", ALPHA))), bool(config.get("use_rslora")))


def targets(config: Mapping[str, Any], module: str) -> bool:
    """Whether PEFT would put an adapter on `module` (`tuners_utils.check_target_module_exists`)."""
    wanted, excluded = config.get("target_modules"), config.get("exclude_modules")
    if excluded and _named(excluded, module):
        return False
    if any(_matches(rf"(^|.*\.){saved}($|\..*)", module) for saved in config.get("modules_to_save") or ()):
        return False
    if not _named(wanted or (), module):
        return False
    indices = config.get("layers_to_transform")
    if isinstance(wanted, str) or indices is None or indices == []:
        return True
    among = config.get("layers_pattern") or ()
    patterns = [rf"(?:^|.*?\.){name}\.(\d+)\." for name in ([among] if isinstance(among, str) else among)]
    match = next(filter(None, (_matches(each, module) for each in patterns or [r".*?\.[^.]*\.(\d+)\."])), None)
    return match is not None and int(match[1]) in ([indices] if isinstance(indices, int) else indices)


def _named(names: str | Iterable[str], module: str) -> bool:
    if isinstance(names, str):  # a regular expression for the whole name
        return _matches(rf"(?:{names})\Z", module) is not None
    return any(module == name or module.endswith(f".{name}") for name in names)


def _matches(pattern: str, module: str) -> re.Match[str] | None:
    try:
        return re.match(pattern, module)
    except re.error as error:
        raise CheckpointError(f"{CONFIG} has the pattern {pattern!r}, which is none ({error}); correct it.") from error
