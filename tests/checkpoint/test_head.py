"""Which task a checkpoint is for, where config.json does not say it and the tensors do."""

import inspect

import numpy as np
import pytest

from jaxprune.checkpoint import head_choice, load, save
from jaxprune.errors import SettingsError
from jaxprune.model import logits
from tests.helpers import tiny

FAMILIES = ("bert", "roberta", "distilbert")


def encoder_only(settings: dict, **changes) -> dict:
    """`settings` as the bare encoder's config.json has them."""
    row = tiny.FAMILIES[settings["model_type"]]
    return {**settings, "architectures": [f"{row.classes}Model"], **changes}


@pytest.mark.parametrize("head", ["classification", "question_answering"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_head_in_the_file_is_used_though_config_names_the_encoder(tmp_path, family, head):
    settings = tiny.config(family, head)
    named = tiny.tensors(settings)
    ids = np.arange(10).reshape(2, 5) + 2
    expected = logits(tiny.random_model(settings), ids)
    silent = {key: value for key, value in settings.items() if key != "architectures"}
    for name, config in (("encoder", encoder_only(settings)), ("silent", silent)):
        model = load(tiny.write(tmp_path / name, config, named))
        assert model.architecture.head == head and model.provenance.warnings == ()
        np.testing.assert_allclose(logits(model, ids), expected, rtol=0, atol=1e-6)


def test_without_names_the_labels_are_counted_in_the_file(tmp_path):
    settings = tiny.config("bert")
    del settings["id2label"]
    model = load(tiny.write(tmp_path / "model", encoder_only(settings), tiny.tensors(tiny.config("bert"))))
    assert model.architecture.labels == ("LABEL_0", "LABEL_1", "LABEL_2")
    assert model.provenance.warnings == ()


def test_the_caller_may_still_drop_the_head(tmp_path):
    settings = tiny.config("bert")
    model = load(tiny.write(tmp_path / "model", encoder_only(settings), tiny.tensors(settings)), head="none")
    assert model.architecture.head == "none" and "head" not in model.params


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_that_no_generator_takes_is_refused(tmp_path, seed):
    with pytest.raises(SettingsError, match="seed is"):
        load(tmp_path, seed=seed)


def test_classes_that_go_by_each_others_names_are_warned_of(tmp_path):
    folder = tiny.write(tmp_path / "model", tiny.config("bert"), tiny.tensors(tiny.config("bert")))
    own = load(folder).architecture.labels
    turned, new = own[::-1], (*own[:-1], "unheard of")
    (told,) = load(folder, labels=turned).provenance.warnings
    assert "outputs for " + ", ".join(own) in told and f"called {', '.join(turned)} from now on" in told
    assert load(folder, labels=own).provenance.warnings == load(folder, labels=new).provenance.warnings == ()
    save(load(folder), tmp_path / "saved")
    assert "from now on" in load(tmp_path / "saved", labels=turned).provenance.warnings[-1]


@pytest.mark.parametrize("labels", [{"no", "yes"}, {"no": 1, "yes": 0}, 2.0, True, [0, 1]])
def test_labels_are_a_count_or_names_in_their_order(labels):
    check = inspect.unwrap(head_choice._check_request)  # without the tests' type checker
    with pytest.raises(SettingsError, match="labels is .*, expected a count or the names of the classes"):
        check(None, labels, None)
