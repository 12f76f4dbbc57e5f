"""A run that was stopped after measuring goes on from what it measured, to the same model."""

import dataclasses
import shutil

import numpy as np
import pytest

import jaxprune as jp
from jaxprune.errors import CheckpointError, OutputError, SettingsError
from jaxprune.pruning import measure, measured
from jaxprune.pruning.measured import FILE, PART, Measured, Parts, has_measured
from jaxprune.pruning.methods import fisher, flap, kprune, taylor
from jaxprune.pruning.run import Run
from tests.helpers.decoders import language_model
from tests.pruning.test_devices import CALIBRATION, METHODS, same

ONCE = {"kprune": (kprune, "measure"), "fisher": (fisher, "measure")}
ONCE |= {"flap": (flap, "measure_moments"), "taylor": (taylor, "summed_gradient")}
BUDGET = jp.Budget(0.5, cost="params")
OTHER = jp.Calibration.of_texts(["the cast was fine"] * 20)


@pytest.fixture(scope="module", autouse=True)
def several_batches():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jaxprune.tokens.packing.CPU_BATCH", 64)
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return language_model(tmp_path_factory.mktemp("measured") / "model", "llama")


@pytest.fixture
def stopped(model, tmp_path, monkeypatch):
    """A function that runs a method until it has measured, and gives the folder."""

    def stop(name: str = "kprune", settings=None):
        def finish(*given, **settings):
            raise KeyboardInterrupt

        run, default = METHODS[name]
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(Run, "finish", finish)
            run(model, CALIBRATION, jp.Budget(0.2), settings or default, out=tmp_path / "run")
        assert has_measured(tmp_path / "run")
        return tmp_path / "run"

    return stop


@pytest.mark.parametrize("name", ONCE)
def test_it_goes_on_to_the_same_model_with_any_budget(model, stopped, name, monkeypatch):
    run, settings = METHODS[name]
    expected, folder = run(model, CALIBRATION, BUDGET, settings), stopped(name)
    module, measuring = ONCE[name]
    monkeypatch.setattr(module, measuring, None)  # it is not called again
    found = run(model, CALIBRATION, BUDGET, settings, out=folder, resume=True)
    assert same(found, expected)
    assert found.provenance.record["reused"] == ["measurement of a run that was stopped"]
    assert expected.provenance.record["reused"] == []


# Settings that decide what is measured, and those that come after, in other values than the default's. Of K-prune the
# ones in the middle: those that the pass over the texts does not read, though what is made of it does.
OTHERS = {
    "kprune": (
        {"search": "gates", "token_floor": 0.4, "temperature": 1.0, "exact_up_to": 2, "seed": 1},
        {"elimination_ridge": 50.0, "sensitivity": False},
        {"depth_ratio": 3.0, "refit": "scales", "ridge": 1000.0, "pull": 0.5, "intercept": False,
         "refit_inputs": False, "input_ridge": 9.0},
    ),
    "fisher": ({"rearrange": False, "seed": 1}, {}, {"refit": "none"}),
    "flap": ({}, {}, {"criterion": "wanda", "compensate": False, "refit": "scales"}),
    "taylor": ({}, {}, {"refit": "scales"}),
}  # fmt: skip
ELSEWHERE = {"query_heads", "balance", "head_weight"}  # of K-prune: with grouped queries, or the published scores, only
EACH = [
    pytest.param(name, part, field, value, id=f"{name}-{field}")
    for name, parts in OTHERS.items()
    for part, changes in enumerate(parts)
    for field, value in changes.items()
]


def test_every_setting_is_in_one_of_the_tables():
    for name, parts in OTHERS.items():
        fields = {field.name for field in dataclasses.fields(METHODS[name][1])}
        assert fields - ELSEWHERE == {field for part in parts for field in part}


@pytest.fixture(scope="module")
def kept(model, tmp_path_factory):
    """The folder of a run of every method that was stopped after measuring."""

    def finish(*given, **settings):
        raise KeyboardInterrupt

    folders = {name: tmp_path_factory.mktemp(name) / "run" for name in ONCE}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "finish", finish)
        for name, folder in folders.items():
            run, settings = METHODS[name]
            with pytest.raises(KeyboardInterrupt):
                run(model, CALIBRATION, BUDGET, settings, out=folder)
    return folders


@pytest.mark.parametrize("name, part, field, value", EACH)
def test_only_settings_that_measuring_reads_keep_a_run_from_going_on(model, kept, tmp_path, name, part, field, value):
    run, default = METHODS[name]
    where = {"out": shutil.copytree(kept[name], tmp_path / "run"), "resume": True}
    # The head is a language model's, for which factors are never exact.
    monkey = {"exact_up_to": pytest.raises(SettingsError, match="no effect")}
    changed = dataclasses.replace(default, **{field: value})
    if part == 0:
        with monkey.get(field, pytest.raises(SettingsError, match=rf"\(other .*setting {field}\b")):
            run(model, CALIBRATION, BUDGET, changed, **where)
        return
    expected = run(model, CALIBRATION, BUDGET, changed)
    result = run(model, CALIBRATION, BUDGET, changed, **where)
    assert same(result, expected)
    whose = "part of the measurement" if part == 1 else "measurement"
    assert result.provenance.record["reused"] == [f"{whose} of a run that was stopped"]


def test_without_the_pass_the_search_needs_the_settings_it_had(model, kept, tmp_path):
    folder = shutil.copytree(kept["kprune"], tmp_path / "run")
    (folder / PART).unlink()
    with pytest.raises(SettingsError, match=r"\(other setting elimination_ridge, setting sensitivity\)"):
        other = jp.KPrune(elimination_ridge=50.0, sensitivity=False)
        jp.kprune(model, CALIBRATION, BUDGET, other, out=folder, resume=True)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", ONCE)
def test_a_pass_that_was_killed_goes_on_from_its_last_part(model, tmp_path, name, stream, monkeypatch):
    (run, settings), texts, where = METHODS[name], CALIBRATION, {"out": tmp_path / "run", "stream": stream}
    expected, steps, goes_on = run(model, texts, BUDGET, settings), [], []
    monkeypatch.setattr(measured, "SHARE", 0)  # whatever it costs
    monkeypatch.setattr(measure, "WAITING_BYTES", 1)  # streamed: every batch is a group
    plain = Parts.keep

    def keep(self, done, of, state):
        plain(self, done, of, state)
        steps.append((done, of))
        if done == 2 and not goes_on:
            raise KeyboardInterrupt

    monkeypatch.setattr(Parts, "keep", keep)
    with pytest.raises(KeyboardInterrupt):
        run(model, texts, BUDGET, settings, save_minutes=1e-9, **where)
    assert [done for done, _ in steps] == [1, 2] and steps[0][1] > 3 and has_measured(tmp_path / "run")
    with pytest.raises(SettingsError, match="other calibration texts"):
        run(model, OTHER, BUDGET, settings, resume=True, **where)
    goes_on.append(True)
    result = run(model, texts, BUDGET, settings, resume=True, **where)
    assert [done for done, _ in steps] == [1, *range(2, steps[0][1] + 1)]
    assert same(result, expected)
    assert result.provenance.record["reused"] == ["part of the measurement of a run that was stopped"]


def test_parts_are_kept_when_it_is_time(tmp_path, monkeypatch):
    now, read = [0.0], []
    monkeypatch.setattr(measured.time, "monotonic", lambda: now[0])
    kept = Measured(tmp_path, False, save_minutes=1.0)
    parts = Parts(kept, {"method": "m"}, lambda state: read.append(1) or state, whole=True)

    def written(at: float, done: int, size: int = 1) -> bool:
        now[0], before = at, len(read)
        parts.keep(done, 9, {"sum": np.zeros(size, np.int8)})
        return len(read) > before

    assert [written(*at) for at in ((59, 1), (61, 2), (120, 3), (122, 4))] == [False, True, False, True]
    monkeypatch.setattr(measured, "DISK", 1.0)  # at a byte a second, what took 200 seconds is not worth 10,000
    assert not written(200, 9, 10_000) and written(200, 9, 9)


def test_settings_of_parts_are_checked(model, tmp_path):
    with pytest.raises(SettingsError, match="save_minutes has no effect without out"):
        jp.kprune(model, CALIBRATION, BUDGET, save_minutes=1.0)
    for wrong in (0.0, -1.0, float("inf")):
        with pytest.raises(SettingsError, match="save_minutes must be a positive number"):
            jp.kprune(model, CALIBRATION, BUDGET, save_minutes=wrong, out=tmp_path / "run")


def test_another_run_is_refused_by_what_differs(model, stopped):
    folder = stopped()
    where = {"out": folder, "resume": True}
    with pytest.raises(SettingsError, match=r"other calibration texts\)"):
        jp.kprune(model, OTHER, BUDGET, **where)
    with pytest.raises(SettingsError, match=r"other setting temperature\)"):
        jp.kprune(model, CALIBRATION, BUDGET, jp.KPrune(temperature=1.0), **where)
    changed = model.replace(params={**model.params, "embed": {"token": model.params["embed"]["token"] + 1}})
    with pytest.raises(SettingsError, match=r"other model\)"):
        jp.kprune(changed, CALIBRATION, BUDGET, **where)
    with pytest.raises(SettingsError, match="the measurement of kprune, not of flap"):
        jp.flap(model, CALIBRATION, BUDGET, **where)


def test_what_is_in_the_folder_is_checked(model, stopped, tmp_path):
    folder = stopped()
    with pytest.raises(OutputError, match="earlier run"):
        jp.kprune(model, CALIBRATION, BUDGET, out=folder)
    data = bytearray((folder / FILE).read_bytes())
    data[-3] ^= 1
    (folder / FILE).write_bytes(data)
    with pytest.raises(CheckpointError, match="damaged"):
        jp.kprune(model, CALIBRATION, BUDGET, out=folder, resume=True)
    (folder / FILE).write_bytes(data[:100])
    with pytest.raises(CheckpointError, match="cannot be read"):
        jp.kprune(model, CALIBRATION, BUDGET, out=folder, resume=True)
    jp.save(model, tmp_path / "saved")
    with pytest.raises(OutputError, match="something other"):
        jp.kprune(model, CALIBRATION, BUDGET, out=tmp_path / "saved", resume=True)


def test_settings_that_keep_nothing(model, tmp_path):
    with pytest.raises(SettingsError, match="resume needs out"):
        jp.kprune(model, CALIBRATION, BUDGET, resume=True)
    with pytest.raises(SettingsError, match="kprune, as it is set, keeps no measurement"):
        jp.kprune(model, CALIBRATION, BUDGET, jp.KPrune.presets()["published"], out=tmp_path)


def test_a_full_disk_costs_a_warning(model, tmp_path, monkeypatch):
    def full(*given):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("jaxprune.pruning.measured.save_file", full)
    found = jp.kprune(model, CALIBRATION, BUDGET, out=tmp_path / "run")
    (told,) = [entry for entry in found.provenance.record["warnings"] if "not kept" in entry]
    assert "No space left on device" in told and not has_measured(tmp_path / "run")
    assert np.isfinite(found.provenance.record["masked_vs_cut"])
