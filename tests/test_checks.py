"""Seeds, counts and lists of texts are checked where they come in, in the same words."""

import re
from types import SimpleNamespace

import numpy as np
import pytest

import jaxprune as jp
from jaxprune.assets import demo_data_path, demo_model_path
from jaxprune.checks import check_counts, check_texts
from jaxprune.errors import SettingsError


@pytest.mark.parametrize("seed", [-1, 2**32, True])
@pytest.mark.parametrize(
    "draw",
    [
        lambda seed: jp.KPrune(seed=seed),
        lambda seed: jp.Fisher(seed=seed),
        lambda seed: jp.Random(seed=seed),
        lambda seed: jp.Train(seed=seed),
        lambda seed: jp.load(demo_model_path(), seed=seed),
        lambda seed: jp.tasks.folder(demo_data_path()).calibration(8, seed=seed),
    ],
)
def test_seeds_are_checked_where_they_come_in(draw, seed):
    with pytest.raises(SettingsError, match="expected an integer from 0 to 4294967295"):
        draw(seed)


@pytest.mark.parametrize(
    "value, says",
    [(0, "rank must be at least 1, got 0."), (1.5, "rank must be a whole number, got 1.5."),
     (True, "rank must be a whole number, got True."), ("8", "rank must be a whole number, got '8'.")],
)  # fmt: skip
def test_counts_are_whole_and_large_enough(value, says):
    with pytest.raises(SettingsError, match=re.escape(says)):
        check_counts(SimpleNamespace(rank=value), 1, "rank")


def test_settings_check_their_counts():
    check_counts(SimpleNamespace(epochs=np.int64(2), budget=None), 1, "epochs", "budget")
    for make in (lambda: jp.Lora(rank=0), lambda: jp.Train(holdout=-1), lambda: jp.PruneLora(samples=0)):
        with pytest.raises(SettingsError, match="must be at least"):
            make()


def test_one_text_is_no_list_of_texts():
    with pytest.raises(
        SettingsError, match=re.escape("train must be a sequence of texts, got one text; write ('head/*',).")
    ):
        check_texts(SimpleNamespace(train="head/*"), "train")
