"""What is kept between passes saves work and changes no bit."""

from typing import Any

import numpy as np
import pytest

import jaxprune as jp
from jaxprune.assets import demo_data_path, demo_model_path
from jaxprune.errors import SettingsError
from jaxprune.model.architecture import Sublayer
from jaxprune.pruning import refit as follow
from jaxprune.pruning.kept import KEEP_BYTES
from jaxprune.pruning.refit import padded_units, widths
from tests.helpers.decoders import language_model
from tests.pruning.test_devices import CALIBRATION, same

BUDGETS = [jp.Budget(0.3), jp.Budget(0.6)]


@pytest.fixture(scope="module")
def cases(tmp_path_factory):  # norms after and before
    encoder = jp.load(demo_model_path()), jp.tasks.folder(demo_data_path()).calibration(60)
    return {"post": encoder, "pre": (language_model(tmp_path_factory.mktemp("kept") / "model", "llama"), CALIBRATION)}


@pytest.mark.slow
@pytest.mark.parametrize("norms, stream", [("post", False), ("post", True), ("pre", False)])
def test_any_number_of_bytes_gives_the_same_models(cases, norms, stream, monkeypatch):
    model, calibration = cases[norms]
    computed: list[bool] = []
    plain = follow.dense_output

    def dense_output(p: Any, architecture: Any, at: Sublayer, number: int, *rest: Any) -> Any:
        computed.append((at.index, number) not in rest[-1].outputs)
        return plain(p, architecture, at, number, *rest)

    monkeypatch.setattr(follow, "dense_output", dense_output)
    shares, results = [], []
    for limit in (0, 900_000, KEEP_BYTES):
        computed.clear()
        results.append(jp.kprune(model, calibration, BUDGETS, keep_bytes=limit, stream=stream))
        shares.append(np.mean(computed))
    for found in results[1:]:
        assert all(same(one, other) for one, other in zip(results[0], found, strict=True))
    assert shares[0] == 1 and shares[-1] == 0
    if norms == "post":
        assert 0 < shares[1] < 1


@pytest.mark.parametrize("wrong", [-1, True])
def test_other_than_a_number_of_bytes_is_an_error(cases, wrong):
    with pytest.raises(SettingsError, match="keep_bytes must be a whole number"):
        jp.magnitude(cases["post"][0], cases["post"][1], BUDGETS[0], keep_bytes=wrong)


def test_more_work_is_sorted_into_more_widths():
    assert widths(10**9) < widths(5 * 10**11) < widths(10**13)
    mask = np.arange(64) < 52
    assert [len(padded_units(mask, parts)[0]) for parts in (4, 8, 16)] == [64, 56, 52]
