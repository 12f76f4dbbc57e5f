"""The record of a pruned model, typed; of folders of earlier releases too."""

from pathlib import Path

import pytest

import jaxprune as jp
from jaxprune.errors import SettingsError
from jaxprune.model.record import report_of
from tests.helpers.tiny import config, random_model

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.mark.parametrize("folder", sorted(GOLDEN.glob("saved-*")), ids=lambda folder: folder.name)
def test_a_folder_of_an_earlier_release_has_a_report(folder):
    model = jp.load(folder)
    record, report = model.provenance.record, model.report
    assert report.method == "kprune" and report.settings["refit"] == "weights" and record["settings"]["refit"] is True
    assert report.removed.flops == record["removed"]["flops"]
    assert report.budget is not None and (report.budget.remove, report.budget.length) == (0.5, 9)
    assert report.calibration is not None and report.calibration.tokens == 536
    assert [layer.heads for layer in report.kept] == [(0, 1, 2), (0,)]
    assert report.refit[1].half == "feed_forward" and report.refit[1].residual == record["refit"][1]["residual"]
    assert report.seconds == record["seconds"] and report.phases["measure"] == record["phases"]["measure"]
    assert report.host_peak_bytes == record.get("host_peak_bytes")
    assert report.masked_vs_cut < 1e-6 and len(report.warnings) == 1


def test_every_entry_of_a_run_is_in_the_report_and_survives_saving(tmp_path):
    model = jp.load(GOLDEN / "saved-0.1.0-last")
    texts = jp.Calibration.of_ids([[2, 5, 7, 3]] * 64, None)
    small = jp.prune(model, texts, jp.Budget(0.2, cost="params"), "fisher")
    again = jp.load(jp.save(small, tmp_path / "small"))
    assert again.report == small.report
    report, record = small.report, small.provenance.record
    for name in ("seconds", "compile_seconds", "compiled_programs", "dense_forward_seconds", "dense_forwards"):
        assert getattr(report, name) == record[name]
    for name in ("peak_bytes", "host_peak_bytes", "masked_vs_cut", "method"):
        assert getattr(report, name) == record[name]
    assert report.settings == record["settings"] and report.phases == record["phases"]
    assert report.calibration is not None and report.calibration.hash == texts.hash


def test_what_a_later_method_left_standing_is_not_its_own():
    record = {
        "method": "recap",
        "settings": {"share_of": "units"},
        "removed": {"flops": 0.3, "params": 0.4, "length": 9},
        "kept": [{"heads": [0], "neurons": [1, 2], "queries": [[0, 1]]}],
        "masked_vs_cut": 0.0,
        "budget": {"remove": 0.5},
        "seconds": 3.0,
        "started_from": {"method": "kprune"},
    }
    report = report_of(record)
    assert (report.budget, report.seconds, report.calibration) == (None, None, None)
    assert report.settings == {"cost": "units"} and report.kept[0].queries == ((0, 1),)


def test_a_model_that_was_not_pruned_has_none():
    with pytest.raises(SettingsError, match="was not pruned, so it has no report"):
        random_model(config("bert")).report  # noqa: B018
