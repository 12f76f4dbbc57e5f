"""Which units a round keeps and which rows train."""

import numpy as np
import pytest
from hypothesis import given, strategies as st

import jaxprune as jp
from jaxprune.errors import SettingsError
from jaxprune.finetuning.recap.selection import averaged, keep_units, keep_widths, train_rows, trained_count, unit_sizes
from jaxprune.finetuning.recap.settings import Recap, step_shares
from jaxprune.pruning.cost import unit_costs
from tests.helpers import tiny


@given(st.floats(0, 0.99), st.integers(1, 12))
def test_steps_take_the_whole_ratio_together(remove, steps):
    left = np.prod([1 - share for share in step_shares(remove, steps)])
    np.testing.assert_allclose(1 - left, remove, atol=1e-12)


@st.composite
def scored(draw):
    counts = draw(st.lists(st.integers(1, 30), min_size=1, max_size=6))
    random = np.random.RandomState(draw(st.integers(0, 999)))
    sizes = [draw(st.integers(1, 9)) for _ in counts]
    return [random.rand(n) for n in counts], sizes, draw(st.floats(0, 0.85))


@given(scored())
def test_one_ranking_over_all_sublayers_with_a_cap(units):
    scores, sizes, remove = units
    whole = [np.ones(len(score), bool) for score in scores]
    masks = keep_units(scores, sizes, whole, remove, 0.85)
    total = sum(size * len(score) for size, score in zip(sizes, scores, strict=True))
    safe = [np.argsort(-score, kind="stable")[: max(1, int(np.ceil(0.15 * len(score) - 1e-9)))] for score in scores]
    kept = sum(size * mask.sum() for size, mask in zip(sizes, masks, strict=True))
    least = sum(size * len(few) for size, few in zip(sizes, safe, strict=True))
    assert kept <= max(total - round(remove * total), least)
    assert all(mask[few].all() for mask, few in zip(masks, safe, strict=True))  # no sublayer loses everything
    free = [mask.copy() for mask in masks]
    for mask, few in zip(free, safe, strict=True):
        mask[few] = False
    per = [score / size for score, size in zip(scores, sizes, strict=True)]
    lowest = min((value for p, mask in zip(per, free, strict=True) for value in p[mask]), default=np.inf)
    assert all(p[~mask].max(initial=-np.inf) <= lowest for p, mask in zip(per, masks, strict=True))
    again = keep_units(scores, sizes, masks, min(0.85, remove + 0.1), 0.85)
    assert all(np.all(new <= old) for new, old in zip(again, masks, strict=True))  # what went stays away


def test_widths_of_the_first_round_hold_whatever_is_important_later():
    random = np.random.RandomState(0)
    scores, whole = [random.rand(7), random.rand(12)], [np.ones(7, bool), np.ones(12, bool)]
    half = keep_widths(scores, (3, 12), whole, 0.5)
    masks = keep_widths([score[::-1] for score in scores], (3, 12), half)
    assert [mask.sum() for mask in half] == [5, 12] and [mask.sum() for mask in masks] == [3, 12]
    assert all(np.all(new <= old) for new, old in zip(masks, half, strict=True))
    assert set(np.flatnonzero(half[0])) == set(np.argsort(-scores[0])[:5])


@pytest.mark.parametrize("remove", [0.5, 0.85])
def test_small_sublayers_keep_a_unit_whatever_is_asked(remove):
    masks = keep_units(
        [np.ones(1), np.ones(3), np.ones(2)], [5, 1, 1], [np.ones(n, bool) for n in (1, 3, 2)], remove, 0.85
    )
    assert all(mask.any() for mask in masks)


def test_sizes_are_units_or_parameters():
    architecture = tiny.architecture(tiny.config("bert"))
    assert unit_sizes(architecture, Recap(cost="units")) == [1, 1, 1, 1]
    assert unit_sizes(architecture, Recap()) == 2 * list(unit_costs(architecture, "params")[0])


def test_the_average_weighs_shares():
    first = averaged(None, [np.array([1.0, 3.0])], 0.5)
    np.testing.assert_allclose(first[0], [0.25, 0.75])
    np.testing.assert_allclose(averaged(first, [np.array([30.0, 10.0])], 0.5)[0], [0.5, 0.5])


@pytest.mark.parametrize(
    "rows, freeze, expected", [(10, 0.5, 5), (10, 0.75, 2), (3, 0.99, 1), (0, 0.5, 0), (4, 0.0, 4)]
)
def test_the_best_rows_of_every_matrix_train(rows, freeze, expected):
    values = np.random.RandomState(0).rand(rows)
    mask = train_rows([{"feed_forward": {"up": values}}], freeze)[0]["feed_forward"]["up"]
    assert mask.sum() == expected == trained_count(rows, freeze)
    assert values[mask].min(initial=2) >= values[~mask].max(initial=-1)


def test_freeze_goes_to_remove_where_interpolated():
    settings = Recap(rounds=3, remove=0.2, freeze=0.6, freeze_schedule="interpolated")
    np.testing.assert_allclose([settings.freeze_at(number) for number in range(3)], [0.6, 0.4, 0.2])
    assert Recap(freeze=0.6, rounds=9).freeze_at(8) == 0.6


def test_presets_are_the_papers():
    cola = jp.Recap.presets()["published-bert-cola"]
    assert (cola.remove, cola.freeze, cola.pruning_steps, cola.rounds, cola.epochs) == (0.17, 0.5, 1, 5, 10)
    assert cola.learning_rate == 2e-5 and cola.importance == "weights"
    vision = jp.Recap.presets()["published-vision-like"]
    assert 0.33 <= vision.remove <= 0.5 <= vision.freeze <= 0.875 and 10 <= vision.rounds <= 20


@pytest.mark.parametrize(
    "wrong, says",
    [
        ({"remove": 1.0}, r"remove must lie in \[0, 1\), got 1.0"),
        ({"remove": -0.1}, r"remove must lie in \[0, 1\), got -0.1"),
        ({"freeze": 1.0}, r"freeze must lie in \[0, 1\), got 1.0"),
        ({"remove": 0.9}, "remove 0.9 is above the cap: at most 0.85 of each sublayer goes"),
        ({"cap": 1.0}, r"cap must lie in \(0, 1\), got 1.0; a sublayer must keep"),
        ({"rounds": 0}, "rounds must be at least 1, got 0"),
        ({"pruning_steps": 0}, "pruning_steps must be at least 1, got 0"),
        ({"average": 1.0}, r"average must lie in \[0, 1\), got 1.0"),
        ({"learning_rate": 0.0}, "learning_rate must be positive, got 0.0"),
        ({"measure_on": "device", "refit": True}, "done on the host; set measure_on to host"),
        ({"measure_on": "device", "prefetch": True}, "done on the host; set measure_on to host"),
        ({"importance": "kprune", "pruning_steps": 2}, "pruning_steps must be 1, got 2"),
    ],
)
def test_settings_outside_their_range_are_refused(wrong, says):
    with pytest.raises(SettingsError, match=says) as error:
        jp.Recap(**wrong)
    assert "\n" not in str(error.value)
