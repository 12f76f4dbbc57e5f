"""Perplexity of what is learnt, against the loss of transformers on torch with labels by its own assistant mask."""

import numpy as np
import pytest

import jaxprune as jp
from tests.helpers.chat import MARKED, PLAIN, chat_model, turns, write_rows

torch = pytest.importorskip("torch", reason="live parity needs torch: make parity installs it")
pytestmark = pytest.mark.filterwarnings("ignore")  # those of torch and transformers are not ours to fix
ROWS = [turns("the film?", "it was the film", "why", "so"), turns("a", "b", system="be " * 9)]


def test_completions_are_scored_as_transformers_scores_them(tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = chat_model(tmp_path / "model", PLAIN)
    theirs, tokenizer = (kind.from_pretrained(tmp_path / "model") for kind in (AutoModelForCausalLM, AutoTokenizer))
    losses, counted = 0.0, 0
    for messages in ROWS:
        out = tokenizer.apply_chat_template(
            messages, chat_template=MARKED, return_dict=True, return_assistant_tokens_mask=True
        )
        ids, mask = np.array(out["input_ids"]), np.array(out["assistant_masks"])
        labels = torch.tensor(np.where(mask > 0, ids, -100))[None]
        with torch.no_grad():
            loss = theirs(torch.tensor(ids)[None], labels=labels).loss
        losses, counted = losses + float(loss) * mask[1:].sum(), counted + mask[1:].sum()
    scored = jp.evaluate(model, jp.tasks.chat(write_rows(tmp_path / "a.jsonl", [{"messages": row} for row in ROWS])))
    assert scored.metrics["loss"] == pytest.approx(losses / counted, rel=1e-5)
