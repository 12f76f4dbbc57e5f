"""Layers are recomputed where a run fits only so and nobody said otherwise; what never fits is refused."""

import pytest

from jaxprune.errors import SettingsError
from jaxprune.runtime.device_limit import recomputes

NEEDED = {False: {"tuning": 1000, "evaluation": 300}, True: {"tuning": 200, "evaluation": 300}}


@pytest.mark.parametrize(
    "asked, limit, on, told",
    [
        (None, None, False, 0),
        (None, 1000, False, 0),
        (None, 999, True, 1),
        (None, 280, True, 1),  # predictions are within a tenth
        (True, 280, True, 0),
        (False, 950, False, 0),
    ],
)
def test_layers_are_recomputed_where_a_run_fits_only_so(asked, limit, on, told):
    remat, doubts = recomputes(asked, limit, NEEDED.__getitem__)
    assert (remat, len(doubts)) == (on, told)
    if told:
        assert "tuning is predicted to need 1,000 bytes on the device without it, evaluation 300 with it" in doubts[0]


@pytest.mark.parametrize(
    "asked, limit, told",
    [
        (
            None,
            260,
            "evaluation is predicted to need 300 bytes on the device with layers recomputed, the limit is 260;",
        ),
        (
            True,
            260,
            "evaluation is predicted to need 300 bytes on the device with layers recomputed, the limit is 260;",
        ),
        (False, 890, "tuning is predicted to need 1,000 bytes on the device, the limit is 890; .*recompute layers"),
    ],
)
def test_what_never_fits_is_refused(asked, limit, told):
    with pytest.raises(SettingsError, match=told):
        recomputes(asked, limit, NEEDED.__getitem__)
