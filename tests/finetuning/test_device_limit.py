"""A limit on the device's bytes turns recomputation on by itself, in `finetune`, Prune-LoRA and RECAP, and says so."""

import re
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

import jaxprune as jp
from jaxprune.errors import SettingsError
from jaxprune.finetuning import finetune, importance, prune_lora
from jaxprune.finetuning.recap import method
from jaxprune.runtime import programs

CUT = jp.PruneLora(head_steps=0, remove_heads=0.4)
HANDED_IN = jp.Importance([np.arange(3.0)] * 2, [np.zeros(0)] * 2)


class Reached(Exception):
    """Training would begin."""


@pytest.mark.parametrize("name", ["finetune", "recap", "prune_lora"])
def test_a_limit_turns_remat_on_where_nobody_said_otherwise(name, model, task, monkeypatch, caplog):
    def stop(remat):
        raise Reached(remat)

    monkeypatch.setattr(finetune, "train", lambda model, batches, targets, settings, **_: stop(settings.remat))
    monkeypatch.setattr(method, "one_round", lambda run, state, number: stop(run.training.remat))
    run = {
        "finetune": partial(jp.finetune, model, task),
        "recap": partial(jp.recap, model, task, jp.Recap(rounds=1)),
        # What is cut follows from what is handed in, so that the prediction before the work is the one after it.
        "prune_lora": partial(jp.prune_lora, model, task, CUT, importance=HANDED_IN),
    }[name]

    def begun(remat, limit):
        with pytest.raises(Reached) as reached:
            run(jp.Train(remat=remat), device_limit=limit)
        return reached.value.args[0]

    def needed(remat):
        with pytest.raises(
            SettingsError, match="is predicted to need .* bytes on the device.*, the limit is 1;"
        ) as error:
            begun(remat, 1)
        return int(re.findall(r"need ([\d,]+) bytes", str(error.value))[0].replace(",", ""))

    whole, light = needed(False), needed(True)
    assert light < whole
    assert [begun(asked, whole) for asked in (None, False, True)] == [False, False, True]
    assert not [entry for entry in caplog.messages if "remat" in entry]
    assert [begun(asked, whole - 1) for asked in (False, None)] == [False, True]
    assert sum("layers are recomputed in the backward pass (remat)" in entry for entry in caplog.messages) == 1
    with pytest.raises(SettingsError, match="device_limit must be a positive whole number of bytes, got 0"):
        begun(None, 0)


def test_a_compiled_step_that_needs_more_is_refused_before_it_runs(model, task, monkeypatch, tmp_path):
    monkeypatch.setattr(programs, "temp_bytes", lambda program: 10**9)  # far more than was predicted

    def stop(event):
        raise Reached

    learn = partial(
        jp.finetune, model, task, jp.Train(epochs=1, weight_decay=0.0123), trainable=["head/*"], on_step=stop
    )
    with pytest.raises(Reached):
        learn(device_limit=2 * 10**9)
    with pytest.raises(
        SettingsError,
        match=r"a training step, compiled, needs 1,0[\d,]+ bytes on the device, the limit is 999,999,999;",
    ):
        learn(device_limit=10**9 - 1, out=tmp_path / "run")
    assert not (tmp_path / "run" / "log.jsonl").exists()


def test_a_run_that_goes_on_recomputes_as_it_began(model, task, tmp_path):
    def stop(event):
        if event["done"] == 2:
            raise Reached

    settings = jp.Train(epochs=2, batch_size=48, remat=True)  # as a limit sets it
    learn = partial(jp.finetune, model, task, trainable=["head/*"], out=tmp_path / "run")
    with pytest.raises(Reached):
        learn(settings, on_step=stop)
    with pytest.raises(SettingsError, match=r"another run \(setting remat was True, is False\)"):
        learn(replace(settings, remat=False), resume=True)
    tuned = learn(replace(settings, remat=None), resume=True)
    assert tuned.provenance.record["training"]["settings"]["remat"] is True


def test_prune_lora_is_refused_before_it_measures(model, task, monkeypatch):
    monkeypatch.setattr(prune_lora, "warm_head", lambda *_: pytest.fail("the head is trained"))
    monkeypatch.setattr(prune_lora, "measured_importance", lambda *_: pytest.fail("importance is measured"))
    with pytest.raises(SettingsError, match="a training step is predicted to need .* the limit is 9,000;"):
        jp.prune_lora(model, task, device_limit=9_000)


def test_programs_of_prune_lora_keep_within_the_limit_before_they_run(model, task, monkeypatch):
    """Those of importance, of the training and of the head's warm-up."""
    run, settings = partial(jp.prune_lora, model, task, device_limit=10**8), replace(CUT, head_steps=1, samples=4)
    monkeypatch.setattr(importance, "program_bytes", lambda program: 10**9)
    with pytest.raises(
        SettingsError,
        match="measuring importance, compiled, needs 1,000,000,000 bytes .* 100,000,000; hand importance in",
    ):
        run(replace(settings, head_steps=0))
    monkeypatch.setattr(programs, "temp_bytes", lambda program: 10**9)
    steps, said = [], "a training step, compiled, needs 1,0.* on the device, the limit is 100,000,000;"
    ways: list[dict[str, Any]] = [{"settings": CUT, "importance": HANDED_IN}, {"settings": settings}]
    for given in ways:
        with pytest.raises(SettingsError, match=said):
            # Another rate than that of others' steps, whose programs are kept.
            run(training=jp.Train(epochs=1, weight_decay=0.0321), on_step=steps.append, **given)
    assert not steps
