"""RECAP as a whole: what a round moves and what it leaves, resuming after a kill in any phase, bytes on the device."""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import CancelledError
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxprune as jp
from jaxprune.checkpoint.load import NEW_WEIGHTS
from jaxprune.errors import NumericalError, OutputError, SettingsError
from jaxprune.finetuning.recap import Recap, run_recap
from jaxprune.finetuning.recap.run import PHASES
from jaxprune.finetuning.step import path_of
from jaxprune.finetuning.texts import prepare
from jaxprune.pruning.allocation import allocate
from jaxprune.pruning.cost import whole_parameters
from jaxprune.pruning.cut import cut
from jaxprune.pruning.damage import damage_curves, tilted
from jaxprune.runtime.devices import Devices
from jaxprune.runtime.programs import Programs

SETTINGS = Recap(rounds=2, remove=0.4, freeze=0.5, samples=32, outer="frozen", average=0.5)
TRAINING = jp.Train(batch_size=16, learning_rate=1e-2, seed=3)  # three steps an epoch
SHARED = {}


@pytest.fixture(autouse=True, scope="module")
def one_set_of_programs():
    """Runs of these tests are alike, and compiling is most of their time: they share what they compile."""
    with pytest.MonkeyPatch.context() as patch:
        for module in ("runtime.placement", "finetuning.recap.run"):
            patch.setattr(f"jaxprune.{module}.Programs", lambda own=None, **named: Programs(own=SHARED, **named))
        yield
    SHARED.clear()


@pytest.fixture(scope="module")
def straight(folder, task, tmp_path_factory):
    """A run that nothing disturbs, what it told by phase, and its folder."""
    told, run = [], tmp_path_factory.mktemp("straight") / "run"
    return run_recap(jp.load(folder), task, SETTINGS, TRAINING, out=run, on_phase=told.append), told, run


def moved_paths(before, after) -> set[str]:
    pairs = zip(jax.tree_util.tree_leaves_with_path(before), jax.tree.leaves(after), strict=True)
    return {path_of(path) for (path, old), new in pairs if not np.array_equal(old, new)}


def test_the_result_is_the_best_small_model_with_its_record(straight, model, task, tmp_path):
    result, told, _ = straight
    assert [event["phase"] for event in told] == 2 * list(PHASES)
    record = result.model.provenance.record
    rounds = record["training"]["epochs"]
    best = max(range(2), key=lambda number: (rounds[number]["score"], number))
    assert record["training"]["kept_epoch"] == best
    assert jp.evaluate(result.model, task).score == rounds[best]["score"]
    sizes = [(len(heads), n) for heads, n in zip(rounds[best]["heads"], rounds[best]["neurons"], strict=True)]
    assert [(size.groups, size.neurons) for size in result.model.architecture.layers] == sizes
    assert 0.35 <= record["removed"]["params"] < 0.6 and record["masked_vs_cut"] < 1e-5
    assert record["training"]["parameters"] == whole_parameters(result.model.architecture)
    assert [size.groups for size in result.full.architecture.layers] == [3, 3]
    json.dumps(record)
    jp.save(result.model, tmp_path / "small")
    again = jp.load(tmp_path / "small")
    jax.tree.map(np.testing.assert_array_equal, again.params, result.model.params)
    picture = jp.heat_map(again, tmp_path / "rounds.png")
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_only_kept_units_and_trained_rows_move(model, task):
    """One round from a fresh model: what was removed or frozen is there to the last bit."""
    settings, states = replace(SETTINGS, rounds=1, average=0.0), {}
    result = run_recap(model, task, settings, TRAINING)
    kept = result.model.provenance.record["kept"]
    masks = [np.isin(np.arange(n), layer[name]) for layer in kept for name, n in (("heads", 3), ("neurons", 10))]
    gone = [~mask for mask in masks]
    for before, after in zip(cut(model, gone).params["layers"], cut(result.full, gone).params["layers"], strict=True):
        assert not moved_paths(before, after)
    before, after = cut(model, masks).params, cut(result.full, masks).params
    jax.tree.map(np.testing.assert_array_equal, after, result.model.params)
    for index in range(2):
        for half, name, axis in (("attention", "q", 0), ("attention", "o", -1), ("feed_forward", "up", 0)):
            old, new = (np.asarray(p["layers"][index][half][name]["kernel"]) for p in (before, after))
            rows = np.any(old != new, axis=axis)
            states[index, name] = (int(rows.sum()), rows.size)
    assert all(moved == max(1, round(0.5 * size)) for moved, size in states.values())
    # Embeddings and norms are frozen; the head trains.
    outside = {path for path in moved_paths(model.params, result.full.params) if not path.startswith("layers/")}
    assert outside == {"head/kernel", "head/bias"}


def test_the_callers_model_is_not_touched(model, task):
    before = jax.tree.map(np.array, model.params)
    jp.recap(model, task, replace(SETTINGS, rounds=1, average=0.0), TRAINING)
    jax.tree.map(np.testing.assert_array_equal, model.params, before)


def test_the_loss_of_a_round_is_the_mean_over_its_texts(model, task):
    """40 texts, 16 a step: 16, 16 and 8."""
    told = []
    keep = lambda event: told.append(event["loss"]) if event["phase"] == "train" else None  # noqa: E731
    one, task = replace(SETTINGS, rounds=1, average=0.0), replace(task, train=task.train[:40])
    record = jp.recap(model, task, one, TRAINING, on_step=keep).provenance.record["training"]
    assert record["batch"]["texts"] == pytest.approx(40 / 3) and record["epochs"][0]["steps"] == 3
    assert record["epochs"][0]["loss"] == pytest.approx((16 * told[0] + 16 * told[1] + 8 * told[2]) / 40, rel=1e-12)


def test_scores_of_other_validation_texts_are_not_mixed(model, task, straight):
    other = replace(task, validation=task.validation[1:])
    with pytest.raises(SettingsError, match="another run .other validation texts; other validation labels"):
        jp.recap(model, other, SETTINGS, TRAINING, out=straight[2], resume=True)


# --- interruptions


class Killed(BaseException):
    """Stands in for a kill: nothing may catch it."""


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("number", [0, 1])
def test_a_run_killed_in_any_phase_goes_on_to_the_last_bit(model, task, straight, tmp_path, phase, number):
    def stop(event):
        if (event["phase"], event["round"]) == (phase, number):
            raise Killed

    with pytest.raises(Killed):
        jp.recap(model, task, SETTINGS, TRAINING, out=tmp_path / "run", on_phase=stop)
    told = []
    again = run_recap(
        model, task, SETTINGS, TRAINING, out=tmp_path / "run", resume=True, on_phase=lambda e: told.append(e["round"])
    )
    assert told == [i for i in range(number, 2) for _ in PHASES]
    result, _, run = straight
    jax.tree.map(np.testing.assert_array_equal, again.model.params, result.model.params)
    jax.tree.map(np.testing.assert_array_equal, again.full.params, result.full.params)
    for ours, theirs in zip(again.rounds, result.rounds, strict=True):
        assert all(ours[name] == theirs[name] for name in ("score", "loss", "heads", "neurons", "new"))


def test_a_kill_in_the_middle_of_tuning_too(model, task, straight, tmp_path):
    def stop(event):
        if event["phase"] == "train" and event["done"] == 5:
            raise Killed

    with pytest.raises(Killed):
        jp.recap(model, task, SETTINGS, TRAINING, out=tmp_path / "run", on_step=stop)
    steps = []
    again = jp.recap(
        model, task, SETTINGS, TRAINING, out=tmp_path / "run", resume=True,
        on_step=lambda event: steps.append(event["done"]) if event["phase"] == "train" else None,
    )  # fmt: skip
    assert steps == [4, 5, 6]  # the second round's, whole
    jax.tree.map(np.testing.assert_array_equal, again.params, straight[0].model.params)


def test_ctrl_c_says_what_is_kept(model, task, tmp_path):
    def stop(event):
        if event["round"] == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match="interrupted in round 2 of 2; the state after round 1 is in"):
        jp.recap(model, task, SETTINGS, TRAINING, out=tmp_path / "run", on_phase=stop)


def test_a_signal_waits_for_the_batch_and_loses_nothing(model, task, straight, tmp_path):
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

    def stop(event):
        if event["phase"] == "train" and event["done"] == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt, match="interrupted in round 2 of 2; the state after round 1 is in"):
        jp.recap(model, task, SETTINGS, TRAINING, out=tmp_path / "run", on_step=stop)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    again = jp.recap(model, task, SETTINGS, TRAINING, out=tmp_path / "run", resume=True)
    jax.tree.map(np.testing.assert_array_equal, again.params, straight[0].model.params)


def test_a_finished_run_resumes_without_work(model, task, straight):
    again = run_recap(
        model, task, SETTINGS, TRAINING, out=straight[2], resume=True, on_phase=lambda event: pytest.fail("worked")
    )
    jax.tree.map(np.testing.assert_array_equal, again.model.params, straight[0].model.params)
    jax.tree.map(np.testing.assert_array_equal, again.full.params, straight[0].full.params)


def test_another_run_is_neither_overwritten_nor_mixed(model, task, straight):
    run = straight[2]
    with pytest.raises(OutputError, match="holds an earlier run"):
        jp.recap(model, task, SETTINGS, TRAINING, out=run)
    for settings, training, says in (
        (replace(SETTINGS, remove=0.3), TRAINING, "setting remove was 0.4, is 0.3"),
        (replace(SETTINGS, importance="gates"), TRAINING, "setting importance was weights, is gates"),
        (SETTINGS, replace(TRAINING, learning_rate=0.1), "setting learning_rate was 0.01, is 0.1"),
    ):
        with pytest.raises(SettingsError, match=says) as error:
            jp.recap(model, task, settings, training, out=run, resume=True)
        assert "\n" not in str(error.value)
    other = model.replace(params=jax.tree.map(lambda leaf: leaf + 1, model.params))
    with pytest.raises(SettingsError, match="other weights"):
        jp.recap(other, task, SETTINGS, TRAINING, out=run, resume=True)
    with pytest.raises(SettingsError, match="other task"):
        jp.recap(model, replace(task, name="mine"), SETTINGS, TRAINING, out=run, resume=True)


# --- bad input


def test_a_loss_that_is_not_finite_names_round_step_and_state(model, task, tmp_path, monkeypatch):
    from jaxprune.finetuning.recap import rounds

    real, texts = rounds.send_round, []

    def poisoned(parts, *rest, **named):
        texts.append(1)
        if len(texts) == 2:
            parts["head"]["bias"] = np.full_like(parts["head"]["bias"], np.nan)
        return real(parts, *rest, **named)

    monkeypatch.setattr(rounds, "send_round", poisoned)
    says = "round 2 of 2: the loss is nan at step 4 of 6; lower the learning rate.*the state after round 1 is in"
    with pytest.raises(NumericalError, match=says) as error:
        jp.recap(model, task, SETTINGS, TRAINING, out=tmp_path / "run")
    assert "\n" not in str(error.value)
    monkeypatch.undo()
    again = jp.recap(model, task, SETTINGS, TRAINING, out=tmp_path / "run", resume=True)
    assert np.isfinite(again.params["head"]["bias"]).all()


def test_trouble_is_found_before_the_work(model, task, tmp_path, monkeypatch):
    monkeypatch.setattr("jaxprune.finetuning.recap.method.one_round", lambda *_: pytest.fail("work began"))
    with pytest.raises(SettingsError, match="RECAP distils predictions only.*set distill_hidden to 0"):
        jp.recap(model, task, SETTINGS, replace(TRAINING, distill_hidden=0.5))
    masked = model.replace(architecture=replace(model.architecture, head="masked_lm", labels=(), transform="own"))
    with pytest.raises(SettingsError, match="RECAP does not distil on masked words.*set distill to 0"):
        jp.recap(masked, task, SETTINGS, replace(TRAINING, distill=0.5))
    with pytest.raises(SettingsError, match="'cpu:9' was asked, but there are"):
        jp.recap(model, task, SETTINGS, TRAINING, device="cpu:9")
    for device in (0, ""):
        with pytest.raises(SettingsError, match="is no device; give one of jax.devices"):
            jp.recap(model, task, SETTINGS, TRAINING, device=device)
    with pytest.raises(SettingsError, match="bytes on the device.*, the limit is 5,000; remove or freeze more"):
        jp.recap(model, task, SETTINGS, TRAINING, device_limit=5_000)
    with pytest.raises(SettingsError, match="device_limit must be a positive whole number of bytes, got -5"):
        jp.recap(model, task, SETTINGS, TRAINING, device_limit=-5)
    broken = {**model.params, "head": {**model.params["head"], "bias": np.array([np.nan, 0], np.float32)}}
    with pytest.raises(NumericalError, match="parameter head.bias holds NaN"):
        jp.recap(model.replace(params=broken), task, SETTINGS, TRAINING)


def test_a_limit_on_the_device_is_an_error_with_the_numbers(model, task, straight, monkeypatch):
    """Where the prediction was wrong, what is measured stops the run, at the first step that shows it."""
    monkeypatch.setattr("jaxprune.finetuning.recap.method.phase_bytes", lambda *sizes: {"tuning": 0})
    with pytest.raises(SettingsError, match="bytes on the device.*, the limit is 5,000; remove or freeze more"):
        jp.recap(model, task, SETTINGS, TRAINING, device_limit=5_000)
    books, steps = straight[0].rounds[0]["phases"]["tuning"], []
    assert books["temporary_bytes"] > 0
    with pytest.raises(SettingsError, match="tuning took"):
        jp.recap(
            model, task, SETTINGS, TRAINING, device_limit=books["live_bytes"] + 1,
            on_step=lambda event: steps.append(event["phase"]),
        )  # fmt: skip
    assert "masking" in steps and "train" not in steps


# --- other settings


@pytest.mark.parametrize(
    "changes",
    [
        {"moments": "bfloat16", "outer": "touched", "importance": "gates", "pruning_steps": 2, "refit": True},
        {"moments": "dropped", "outer": "train", "cost": "units", "freeze_schedule": "interpolated"},
        {"measure_on": "device", "freeze": 0.0, "remove": 0.0, "average": 0.0},
        {"importance": "kprune", "refit": True, "outer": "train", "prefetch": True},
        {"importance": "gates", "refit": True, "prefetch": True, "distill": 0.5},
    ],
)
def test_every_setting_resumes_to_the_last_bit(model, task, tmp_path, changes):
    changes = dict(changes)
    training = replace(TRAINING, dropout=0.0, distill=changes.pop("distill", 0.0))
    settings = replace(SETTINGS, **changes)
    straight = run_recap(model, task, settings, training)

    def stop(event):
        if event["round"] == 1 and event["phase"] == "tuning":
            raise Killed

    with pytest.raises(Killed):
        jp.recap(model, task, settings, training, out=tmp_path / "run", on_phase=stop)
    found = run_recap(model, task, settings, training, out=tmp_path / "run", resume=True)
    jax.tree.map(np.testing.assert_array_equal, found.full.params, straight.full.params)
    jax.tree.map(np.testing.assert_array_equal, found.model.params, straight.model.params)
    table = [np.asarray(params["embed"]["token"]) for params in (model.params, found.full.params)]
    moved = np.flatnonzero(np.any(table[0] != table[1], axis=1))
    if settings.outer == "touched":
        seen = np.concatenate(prepare(model, task).encoded.ids)
        assert 0 < len(moved) < len(table[0]) and set(moved) <= set(seen)
    assert settings.outer != "frozen" or not len(moved)
    if settings.measure_on == "device":
        assert all(entry["phases"]["importance"]["bytes_to_device"] > 0 for entry in found.rounds)
    sizes = [sum(map(len, entry["heads"])) + sum(entry["neurons"]) for entry in found.rounds]
    assert settings.cost != "units" or sizes == [26 - round(settings.remove * 26)] * 2


# --- beyond the paper


def test_units_that_move_by_training_move_alike_in_the_full_model(model, task):
    """With a refit, the small model starts from fitted weights, and the full one gets what training changed alone."""
    settings = replace(SETTINGS, rounds=1, refit=True, outer="train", freeze=0.0, average=0.0)
    result = run_recap(model, task, settings, TRAINING)
    still = run_recap(model, task, settings, replace(TRAINING, learning_rate=1e-30))
    kept = result.model.provenance.record["kept"]
    masks = [np.isin(np.arange(n), layer[name]) for layer in kept for name, n in (("heads", 3), ("neurons", 10))]
    unfitted, full = cut(model, masks), cut(result.full, masks)
    jax.tree.map(np.testing.assert_array_equal, still.full.params, jax.tree.map(np.asarray, model.params))
    moved = 0.0
    for before, begun, after, whole in zip(
        *(jax.tree.leaves(m.params["layers"]) for m in (unfitted, still.model, result.model, full)), strict=True
    ):
        np.testing.assert_allclose(whole - before, after - begun, atol=1e-6)
        moved = max(moved, float(np.max(np.abs(np.asarray(begun) - before), initial=0.0)))
    assert moved > 1e-3  # the fit did something
    for error in (result, still):
        assert error.model.provenance.record["masked_vs_cut"] < 1e-5


def test_kprune_removes_what_is_worth_least_after_the_refit(model, task):
    """Its scores, thresholded, are K-prune's own masks."""
    from jaxprune.finetuning.epochs import shuffled
    from jaxprune.finetuning.recap.kprune_scores import damage_scores, measure_knowledge
    from jaxprune.finetuning.recap.selection import keep_units, unit_sizes
    from jaxprune.pruning.cut import everything_kept

    texts, programs = prepare(model, task), Programs(own=SHARED, devices=Devices(stream=True))
    batches = shuffled(texts.encoded, model.architecture, seed=0, size=16)(0)
    numpy = model.replace(params=jax.tree.map(np.asarray, model.params))
    found = measure_knowledge(numpy, batches, 0, programs, lambda done, of: None)
    scores = damage_scores(numpy, found, programs)
    sizes = unit_sizes(model.architecture, SETTINGS)
    masks = keep_units(scores, sizes, everything_kept(model.architecture), 0.4, 0.99)
    settings = jp.KPrune(depth_ratio=6.0)  # an encoder's
    curves = tilted(damage_curves(numpy, found, settings.settled(numpy.architecture).scoring, programs), 6.0)
    costs = [np.full(len(c.order), size) for c, size in zip(curves, sizes, strict=True)]
    allowed = sum(map(np.sum, costs)) - round(0.4 * sum(map(np.sum, costs)))
    for ours, theirs in zip(masks, allocate(curves, costs, int(allowed)), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_what_is_measured_ahead_is_measured_on_the_weights_before(model, task, monkeypatch):
    """The second round's units are those that the first round's weights ask for, on the second one's texts."""
    from jaxprune.finetuning.recap import selection as units

    seen, real = [], units.averaged

    def run(prefetch, rate):
        seen.clear()
        found = run_recap(
            model, task, replace(SETTINGS, prefetch=prefetch), replace(TRAINING, learning_rate=rate)
        ).rounds
        return found, [np.concatenate(average) for average in seen]

    monkeypatch.setattr(units, "averaged", lambda *given: seen.append(real(*given)) or seen[-1])
    (ahead, first), (_, second), (plain, third) = run(True, 1e-2), run(True, 1e-30), run(False, 1e-30)
    for ours, theirs in ((first, second), (second, third)):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    _, other = run(False, 1e-2)
    np.testing.assert_array_equal(other[0], first[0])
    assert np.max(np.abs(other[1] - first[1])) > 1e-4  # training changes what the second round would measure
    assert ahead[0]["seconds_ahead"] > 0 == ahead[1]["seconds_ahead"] == plain[0]["seconds_ahead"]


def test_a_run_that_fails_does_not_wait_for_what_is_measured_ahead(model, task, monkeypatch):
    from jaxprune.finetuning.recap import selection as units

    ended = []

    def choose(run, state, number, tell):
        until = time.monotonic() + 60
        try:
            while time.monotonic() < until:
                tell({})
        except CancelledError:
            ended.append(number)
            raise

    def fail(event):
        if event["phase"] == "train":
            raise ValueError("the caller's own")

    monkeypatch.setattr(units, "choose_units", choose)  # as the thread calls it
    with pytest.raises(ValueError, match="the caller's own"):
        jp.recap(model, task, replace(SETTINGS, prefetch=True), TRAINING, on_step=fail)
    assert ended == [1]


def test_the_full_model_teaches(model, task):
    """A tuned model from the first round on, a new head from the second."""
    settings, training = replace(SETTINGS, average=0.0), replace(TRAINING, distill=1.0, learning_rate=1e-30)
    told, known = [], model
    model = model.replace(provenance=replace(model.provenance, warnings=(f"head: {NEW_WEIGHTS}",)))
    found = run_recap(model, task, settings, training, on_phase=lambda event: told.append(event["phase"]))
    assert told == 2 * ["importance", "masking", "teaching", "tuning", "write back", "evaluation"]
    plain = run_recap(model, task, settings, replace(training, distill=0.0))
    assert found.rounds[0]["loss"] == plain.rounds[0]["loss"] and 0 < found.rounds[1]["loss"] != plain.rounds[1]["loss"]
    itself = run_recap(known, task, replace(settings, remove=0.0, rounds=1), replace(training, dropout=0.0))
    assert itself.rounds[0]["loss"] == pytest.approx(0.0, abs=1e-6)  # the small model is the full one


@pytest.mark.slow
def test_training_learns(model, task):
    settings = replace(SETTINGS, rounds=4, epochs_per_round=6)
    found = run_recap(model, task, settings, replace(TRAINING, learning_rate=2e-2))
    assert found.rounds[-1]["loss"] < 0.5 * found.rounds[0]["loss"]


def test_steps_add_up_and_the_rate_goes_on(model, task, monkeypatch):
    from jaxprune.finetuning.recap import tuning

    seen, real = [], tuning.as_state
    monkeypatch.setattr(
        tuning, "as_state", lambda *a, **k: seen.append((k["steps"], k["done"], k["since"])) or real(*a, **k)
    )
    jp.recap(model, task, SETTINGS, TRAINING)
    assert seen == [(6, 0, 0), (6, 3, 3)]


# --- the device


DEVICES = """
import sys, json, jax
import numpy as np
import jaxprune as jp
from jaxprune.finetuning.recap import Recap, run_recap
from jaxprune.runtime.memory import live_bytes
from tests.helpers import tiny

task, recap = jp.tasks.folder(sys.argv[2]), json.loads(sys.argv[3])
distill = recap.pop("distill", 0.0)
host, device, seen = *(jax.devices()[int(number)] for number in sys.argv[4:]), []
with jax.default_device(host):
    base = jp.load(sys.argv[1])
    settings = tiny.config("bert", id2label={"0": "no", "1": "yes"}, vocab_size=base.architecture.vocab,
                           hidden_size=24, intermediate_size=256, num_hidden_layers=3)
    params = jax.tree.map(jax.numpy.array, tiny.random_model(settings).params)
model = base.replace(architecture=tiny.architecture(settings), params=params)
del base

def look(event):
    counted = live_bytes(device)  # of every kind: nothing is left in pinned memory either
    seen.append({"phase": event["phase"], "now": counted, **{k: event[k] for k in ("live_bytes", "left_bytes")}})

recap = Recap(remove=0.5, freeze=0.75, outer="frozen", samples=16, **recap)
training = jp.Train(batch_size=16, dropout=0.0, distill=distill)
found = run_recap(model, task, recap, training, host=host, device=device, on_phase=look)
full = sum(x.nbytes for x in jax.tree.leaves(model.params))
print(json.dumps({"full": full, "seen": seen, "where": sorted({str(d) for x in jax.tree.leaves(model.params)
                  for d in x.devices()}), "rounds": found.rounds[0]["phases"], "device": str(device)}))
"""


BEYOND = {"importance": "kprune", "refit": True, "prefetch": True, "distill": 0.5, "rounds": 2}


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings, host, device",
    [({"rounds": 1}, 0, 1), ({"rounds": 1, "measure_on": "device"}, 0, 1), (BEYOND, 1, 0)],  # JAX's default device is 0
)
def test_the_device_never_holds_the_full_model(folder, task, settings, host, device):
    """Two devices, simulated; the bytes of one are counted after every phase, and at every transfer."""
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "2", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", DEVICES, str(folder), task.source, json.dumps(settings), str(host), str(device)],
        capture_output=True, text=True, cwd=Path(__file__).parents[3], env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    phases = [phase for phase in (*PHASES[:2], "teaching", *PHASES[2:]) if phase != "teaching" or "distill" in settings]
    assert [entry["phase"] for entry in found["seen"]] == settings["rounds"] * phases
    assert found["device"] not in found["where"]
    for entry in found["seen"]:
        assert entry["now"] == entry["left_bytes"] <= entry["live_bytes"] < found["full"], entry
    phases = found["rounds"]
    assert phases["tuning"]["live_bytes"] > 0.5 * found["full"]  # half of it, and moments of a quarter of that
    assert found["seen"][-1]["now"] == 0
    assert (phases["importance"]["bytes_to_device"] > 0) == ("measure_on" in settings)
    for name in ("importance", "masking", "teaching"):
        assert name not in phases or phases[name]["bytes_to_device"] or phases[name]["peak_bytes"] == 0
    assert phases["write back"]["bytes_to_host"] < 0.6 * found["full"]


def test_a_new_head_in_a_single_round_has_no_teacher(model, task):
    fresh = model.replace(provenance=replace(model.provenance, warnings=(f"no weights for the head: {NEW_WEIGHTS}.",)))
    with pytest.raises(
        SettingsError, match="distill has no effect in a single round with a new head, which teaches from"
    ):
        jp.recap(fresh, task, replace(SETTINGS, rounds=1, average=0.0), replace(TRAINING, distill=0.5))
    record = jp.recap(fresh, task, replace(SETTINGS, rounds=1, average=0.0), TRAINING).provenance.record
    assert record["training"]["new_head"] and not any(NEW_WEIGHTS in entry for entry in record["warnings"])
