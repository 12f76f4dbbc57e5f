"""Greedy generation against transformers on torch, live; run by `make parity`."""

import json

import numpy as np
import pytest

pytest.importorskip("torch", reason="live parity needs torch: make parity installs it")

import torch
from transformers import AutoModelForCausalLM

from jaxprune.checkpoint import load
from jaxprune.runtime.decode import generate_ids
from tests.parity.reference import DECODERS, random_reference

pytestmark = pytest.mark.filterwarnings("ignore")  # those of torch and transformers are not ours to fix


CASES = [(family, {}) for family in DECODERS] + [
    ("opt", {"do_layer_norm_before": False, "word_embed_proj_dim": 8}),
    ("llama", {"num_key_value_heads": 1, "tie_word_embeddings": True}),
    ("mistral", {"sliding_window": 3}),
    ("qwen2", {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1}),
]


@pytest.mark.parametrize(("family", "changes"), CASES)
def test_prompts_go_on_as_in_transformers(tmp_path, family, changes):
    reference = random_reference(family, "causal_lm", seed=7, **changes)
    reference.save_pretrained(tmp_path)
    prompts = [np.array([5, 9, 3, 12]), np.array([7, 4])]
    ids, mask = torch.zeros((2, 4), dtype=torch.long), torch.zeros((2, 4), dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, 4 - len(prompt) :] = torch.from_numpy(prompt)
        mask[row, 4 - len(prompt) :] = 1
    model, ends = load(tmp_path), ()
    reference.config.eos_token_id = None  # else it stands in for one that generation_config lacks
    for _ in range(2):  # without an end token, and with one that comes
        reference.generation_config.eos_token_id = list(ends) or None
        with torch.no_grad():
            said = reference.generate(
                input_ids=ids, attention_mask=mask, max_new_tokens=8, do_sample=False, pad_token_id=0
            )[:, 4:].numpy()
        theirs = np.pad(said, ((0, 0), (0, 8 - said.shape[1])))  # it stops where every row has ended
        ours = generate_ids(model, prompts, max_new_tokens=8, end_ids=ends)
        for row, length in enumerate(ours.lengths):
            assert ours.ids[row, :length].tolist() == theirs[row, :length].tolist()
            assert not theirs[row, length:].any()
        ends = (int(theirs[0, 3]),)


def test_texts_end_where_transformers_ends_them(tmp_path):
    random_reference("llama", "causal_lm", seed=7, eos_token_id=2).save_pretrained(tmp_path)
    prompt, file = [[5, 9, 3, 12]], tmp_path / "generation_config.json"
    file.unlink()
    free = generate_ids(load(tmp_path), prompt, max_new_tokens=8, end_ids=()).ids[0].tolist()
    for settings in (None, {"eos_token_id": [2, free[3]]}, {"eos_token_id": free[2]}, {"bos_token_id": 1}):
        for own in (2, free[1]):
            config = json.loads((tmp_path / "config.json").read_text())
            (tmp_path / "config.json").write_text(json.dumps(config | {"eos_token_id": own}))
            file.unlink(missing_ok=True)
            if settings is not None:
                file.write_text(json.dumps(settings))
            reference = AutoModelForCausalLM.from_pretrained(tmp_path)
            with torch.no_grad():
                theirs = reference.generate(torch.tensor(prompt), max_new_tokens=8, do_sample=False, pad_token_id=0)
            ours = generate_ids(load(tmp_path), prompt, max_new_tokens=8)
            assert ours.ids[0, : ours.lengths[0]].tolist() == theirs[0, 4:].tolist()
