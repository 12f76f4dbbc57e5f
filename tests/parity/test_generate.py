"""Greedy generation against transformers on torch, live; run by `make parity`."""

import numpy as np
import pytest

pytest.importorskip("torch", reason="live parity needs torch: make parity installs it")

import torch

from jaxprune.checkpoint import load
from jaxprune.model.generate import generate_ids
from tests.parity.reference import DECODERS, random_reference

pytestmark = pytest.mark.filterwarnings("ignore")  # those of torch and transformers are not ours to fix


@pytest.mark.parametrize("family", DECODERS)
def test_left_padded_prompts_go_on_as_in_transformers(tmp_path, family):
    reference = random_reference(family, "causal_lm", seed=7)
    reference.save_pretrained(tmp_path)
    prompts = [np.array([5, 9, 3, 12]), np.array([7, 4])]
    ids, mask = torch.zeros((2, 4), dtype=torch.long), torch.zeros((2, 4), dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, 4 - len(prompt) :] = torch.from_numpy(prompt)
        mask[row, 4 - len(prompt) :] = 1
    reference.generation_config.eos_token_id = None
    with torch.no_grad():
        theirs = reference.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=8, do_sample=False, pad_token_id=0
        )
    ours = generate_ids(load(tmp_path), prompts, max_new_tokens=8, end_ids=())
    assert ours.ids.tolist() == theirs[:, 4:].tolist()
