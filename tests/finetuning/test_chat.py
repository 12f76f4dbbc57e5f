"""Language models train on conversations and documents."""

import json
from dataclasses import replace

import numpy as np
import pytest

import jaxprune as jp
from jaxprune.errors import SettingsError
from jaxprune.finetuning.epochs import batches_for, text_counts
from jaxprune.finetuning.finetune import scored_texts
from jaxprune.finetuning.texts import prepare
from tests.helpers.chat import chat_model, turns, write_rows

SETTINGS = jp.Train(epochs=6, batch_size=4, learning_rate=3e-2, dropout=0.0)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return chat_model(tmp_path_factory.mktemp("chat") / "model")


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    rows = [{"messages": turns(f"q {number % 5}", "the film " * (1 + number % 3))} for number in range(24)]
    return jp.tasks.chat(write_rows(tmp_path_factory.mktemp("data") / "a.jsonl", rows), validation=8)


def test_what_is_learnt_is_what_the_loss_sees(model, task):
    texts = prepare(model, task)
    assert texts.targets.shape == (16, texts.encoded.lengths.max()) and 0 < texts.targets.mean() < 0.5
    before = jp.evaluate(model, task).score
    tuned = jp.finetune(model, task, SETTINGS)
    notes = tuned.provenance.record["training"]
    assert notes["epochs"][-1]["metric"] == "perplexity" and jp.evaluate(tuned, task).score < 0.5 * before
    held = jp.finetune(model, task, replace(SETTINGS, epochs=1, holdout=4)).provenance.record["training"]
    assert (held["texts"], held["scored_on"]) == (12, "holdout")


def test_documents_train_in_packed_rows(model, tmp_path):
    random = np.random.RandomState(0)
    lines = [json.dumps({"text": "the film " * random.randint(1, 9)}) for _ in range(40)]
    for name, part in (("train", lines[:32]), ("valid", lines[32:])):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(part))
    task = jp.tasks.text(tmp_path / "valid.jsonl", train=tmp_path / "train.jsonl", length=32, documents=True)
    texts = prepare(model, task)
    first = batches_for(texts.encoded, model.architecture, SETTINGS)(0)
    assert first[0].ids.shape == (4, 32) and text_counts(first).sum() == len(texts.encoded)
    assert text_counts(first)[0] > 4 and texts.encoded.tokens / (first[0].ids.size * len(first)) > 0.8
    assert jp.evaluate(jp.finetune(model, task, SETTINGS), task).score < 0.5 * jp.evaluate(model, task).score


def test_a_teacher_without_a_chat_template_is_named(model, task, tmp_path):
    chat_model(tmp_path / "teacher", template=None)
    file = tmp_path / "teacher" / "tokenizer.json"
    said = json.loads(file.read_text())
    file.write_text(json.dumps({**said, "model": {**said["model"], "dropout": 0.0}}))
    with pytest.raises(
        SettingsError, match="^the teacher's tokenizer cannot read .*: the tokenizer has no chat template"
    ):
        jp.finetune(model, task, replace(SETTINGS, distill=0.5), teacher=jp.load(tmp_path / "teacher"))


def test_scores_are_of_the_same_conversations(task):
    """What two runs must share for one to go on with the other's best epoch."""
    first = scored_texts(task, "validation")
    assert scored_texts(task, "validation") == first
    assert scored_texts(replace(task, validation=task.validation[1:]), "validation") != first
