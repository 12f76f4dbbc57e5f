"""A run that was stopped after measuring goes on from what it measured, to the same model."""

import numpy as np
import pytest

import jaxprune as jp
from jaxprune.errors import CheckpointError, OutputError, SettingsError
from jaxprune.pruning.measured import FILE, has_measured
from jaxprune.pruning.methods import fisher, flap, kprune, taylor
from jaxprune.pruning.run import Run
from tests.helpers.decoders import language_model
from tests.pruning.test_devices import CALIBRATION, METHODS, same

ONCE = {"kprune": (kprune, "measure"), "fisher": (fisher, "measure")}
ONCE |= {"flap": (flap, "measure_moments"), "taylor": (taylor, "summed_gradient")}
BUDGET = jp.Budget(0.5, cost="params")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return language_model(tmp_path_factory.mktemp("measured") / "model", "llama")


@pytest.fixture
def stopped(model, tmp_path, monkeypatch):
    """A function that runs a method until it has measured, and gives the folder."""

    def stop(name: str = "kprune"):
        def finish(*given, **settings):
            raise KeyboardInterrupt

        run, settings = METHODS[name]
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(Run, "finish", finish)
            run(model, CALIBRATION, jp.Budget(0.2), settings, out=tmp_path / "run")
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


def test_another_run_is_refused_by_what_differs(model, stopped):
    folder = stopped()
    other = jp.Calibration.of_texts(["these are other words"] * 20)
    where = {"out": folder, "resume": True}
    with pytest.raises(SettingsError, match=r"other calibration texts\)"):
        jp.kprune(model, other, BUDGET, **where)
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
