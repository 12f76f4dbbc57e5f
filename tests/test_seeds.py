"""Every draw takes the same seeds, and says so."""

import pytest

import jaxprune as jp
from jaxprune.assets import demo_data_path, demo_model_path
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
