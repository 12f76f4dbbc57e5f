"""A setting that was given and does nothing is an error that names it: every settings class, every such place."""

import dataclasses
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import jaxprune as jp
from jaxprune.checkpoint.load import NEW_WEIGHTS
from jaxprune.errors import BudgetError, SettingsError
from jaxprune.finetuning.lora import plan_of
from jaxprune.pruning.by_name import METHODS
from jaxprune.runtime.sampling import Sampling
from tests.finetuning.conftest import folder, model, task  # noqa: F401  (fixtures)

PUBLISHED = jp.KPrune.presets()["published"]


def each(make: Callable[..., Any], *given: dict[str, Any]) -> list[tuple[Callable[[], Any], str]]:
    """A line of the table for each of these."""
    return [(partial(make, **settings), next(iter(settings))) for settings in given]


# What does nothing beside other settings: (how it is given, its name). Nothing but the settings is needed to see it.
ALONE = [
    (lambda: jp.Train(temperature=2.0), "temperature"),
    (lambda: jp.Train(temperature=4.0, distill_hidden=1.0), "temperature"),
    (lambda: jp.Train(smoothing=0.1, distill=1.0), "smoothing"),
    (lambda: jp.Train(teacher_in="host"), "teacher_in"),
    (lambda: jp.Train(distill=0.5, teacher_in="host", taught_dtype="float16"), "taught_dtype"),
    (lambda: jp.PruneLora(score="magnitude", samples=256), "samples"),
    (lambda: jp.PruneLora(score="random", head_steps=9), "head_steps"),
    (lambda: jp.PruneLora(rank_budget=600, high_blocks=4), "high_blocks"),
    (lambda: jp.PruneLora(rank_budget=600, high_rank=8), "high_rank"),
    (lambda: jp.PruneLora(rank_budget=600, low_rank=2), "low_rank"),
    (lambda: jp.PruneLora(high_blocks=0, high_rank=8), "high_rank"),
    (lambda: jp.Recap(rounds=1, freeze_schedule="interpolated"), "freeze_schedule"),
    (lambda: jp.Recap(freeze=0.3, remove=0.3, freeze_schedule="interpolated"), "freeze_schedule"),
    (lambda: jp.Recap(rounds=1, average=0.5), "average"),
    (lambda: jp.Recap(rounds=1, prefetch=True), "prefetch"),
    (lambda: jp.Recap(rounds=1, widths="first"), "widths"),
    *each(
        partial(jp.Recap, remove=0.0),
        {"pruning_steps": 2},
        {"cap": 0.5},
        {"importance": "gates"},
        {"refit": True},
        {"prefetch": True},
        {"average": 0.5},
    ),
    (lambda: jp.KPrune(balance=1e-3), "balance"),
    (lambda: jp.KPrune(head_weight=8.0), "head_weight"),
    *each(partial(jp.KPrune, search="gates"), {"elimination_ridge": 9.0}, {"sensitivity": False}, {"balance": 1e-3}),
    (lambda: jp.KPrune(search="gates", query_heads=True), "query_heads"),
    *each(
        partial(jp.KPrune, refit=False),
        {"ridge": 9.0},
        {"pull": 0.0},
        {"intercept": False},
        {"refit_inputs": False},
        {"input_ridge": 9.0},
    ),
    (lambda: jp.KPrune(search="gates", refit=False, token_floor=1.0), "token_floor"),
    (lambda: jp.KPrune(refit_inputs=False, input_ridge=9.0), "input_ridge"),
    *each(
        partial(replace, PUBLISHED),
        {"elimination_ridge": 9.0},
        {"sensitivity": False},
        {"depth_ratio": 2.0},
        {"exact_up_to": 9},
        {"token_floor": 0.3},
        {"input_ridge": 9.0},
    ),
    (lambda: jp.Budget(0.5, keep_heads=True), "keep_heads"),
    (lambda: Sampling(top_k=3), "top_k"),
    (lambda: Sampling(top_p=0.9), "top_p"),
    (lambda: Sampling(seed=3), "seed"),
]


def of(base, **changes):
    return base.replace(architecture=replace(base.architecture, **changes))


HANDED_IN = jp.Importance([np.zeros(3)] * 2, [np.zeros(0)] * 2)


# What does nothing with this model, or beside these arguments: (what is called with `given`, the setting's name).
SMOOTH, MANY = jp.Train(smoothing=0.1), jp.KPrune(exact_up_to=9)
WITH_MODEL = [
    (lambda g: jp.finetune(of(g.model, problem="multi_label"), g.task, SMOOTH), "smoothing"),
    (lambda g: jp.finetune(of(g.model, problem="regression", labels=("x",)), g.task, SMOOTH), "smoothing"),
    (lambda g: jp.finetune(of(g.model, head="question_answering", labels=()), g.task, SMOOTH), "smoothing"),
    (lambda g: jp.prune_lora(of(g.model, problem="multi_label"), g.task, training=SMOOTH), "smoothing"),
    (lambda g: jp.recap(of(g.model, problem="multi_label"), g.task, training=SMOOTH), "smoothing"),
    (
        lambda g: jp.finetune(
            of(g.model, problem="regression", labels=("x",)), g.task, jp.Train(distill=0.5, temperature=1.0)
        ),
        "temperature",
    ),
    (lambda g: jp.finetune(g.model, g.task, jp.Train(mask_share=0.3)), "mask_share"),
    (lambda g: jp.finetune(g.model, g.task, jp.Train(save_minutes=1.0)), "save_minutes"),
    (lambda g: jp.finetune(g.model, g.task, jp.Train(frozen_dtype="bfloat16")), "frozen_dtype"),
    (lambda g: jp.recap(g.model, g.task, jp.Recap(freeze=0.0), jp.Train(frozen_dtype="bfloat16")), "frozen_dtype"),
    (lambda g: jp.finetune(g.model, g.task, jp.Train(shard="weights")), "shard"),
    (lambda g: jp.finetune(g.model, g.task, jp.Train(mask_share=0.3)), "mask_share"),
    (lambda g: jp.prune_lora(g.model, g.task, training=jp.Train(shard="weights")), "shard"),
    (lambda g: jp.recap(g.model, g.task, training=jp.Train(shard="weights")), "shard"),
    (lambda g: jp.recap(g.model, g.task, training=jp.Train(distill=0.5, teacher_in="host")), "teacher_in"),
    (
        lambda g: jp.finetune(
            g.model,
            g.task,
            jp.Train(distill=0.5, teacher_in="disk", taught_dtype="float32"),
            teacher=g.model,
            out=g.out,
        ),
        "taught_dtype",
    ),  # fmt: skip
    (lambda g: jp.finetune(g.model, g.task, jp.Train(holdout=4, keep="last")), "holdout"),
    (lambda g: jp.finetune(g.model, g.task, jp.Train(distill=0.5)), "teacher"),
    (lambda g: jp.finetune(g.model, g.task, teacher=g.model), "teacher"),
    (lambda g: jp.prune_lora(g.model, g.task, teacher=g.model), "teacher"),
    (lambda g: jp.finetune(g.model, g.task, resume=True), "resume"),
    (lambda g: jp.prune_lora(g.model, g.task, resume=True), "resume"),
    (lambda g: jp.recap(g.model, g.task, resume=True), "resume"),
    (lambda g: jp.finetune(g.model, g.task, adapter_out=g.out), "adapter_out"),
    (lambda g: jp.finetune(g.model, g.task, lora=jp.Lora(), trainable=["head/*"]), "trainable"),
    (lambda g: jp.recap(g.model, g.task, jp.Recap(rounds=1), jp.Train(epochs=7)), "epochs"),
    (lambda g: jp.recap(g.model, g.task, jp.Recap(rounds=3), jp.Train(epochs=2)), "epochs"),
    (lambda g: jp.recap(g.model, g.task, training=jp.Train(save_minutes=1.0)), "save_minutes"),
    (lambda g: jp.recap(g.model, g.task, training=jp.Train(distill_hidden=1.0)), "distill_hidden"),
    (lambda g: jp.recap(g.fresh, g.task, jp.Recap(rounds=1), jp.Train(distill=0.5)), "distill"),
    (lambda g: jp.prune_lora(g.model, g.task, jp.PruneLora(score="gates"), importance=HANDED_IN), "score"),
    (lambda g: jp.prune_lora(g.model, g.task, jp.PruneLora(samples=9), importance=HANDED_IN), "samples"),
    (lambda g: jp.prune_lora(g.model, g.task, jp.PruneLora(head_steps=9), importance=HANDED_IN), "head_steps"),
    (lambda g: jp.prune_lora(g.model, g.task, jp.PruneLora(low_rank=2)), "low_rank"),  # both blocks are high ones
    (lambda g: plan_of(jp.Lora(rank=2, rank_pattern=("*=4",)), g.model.architecture), "rank"),
    (lambda g: plan_of(jp.Lora(alpha=2.0, alpha_pattern=("*=4",)), g.model.architecture), "alpha"),
    (lambda g: plan_of(jp.Lora(rank_pattern=("*/1/*=2", "*=4")), g.model.architecture), "pattern '\\*/1/\\*=2'"),
    (lambda g: jp.kprune(of(g.model, problem="multi_label"), g.texts, g.budget, MANY), "exact_up_to"),
    (lambda g: jp.kprune(of(g.model, head="question_answering"), g.texts, g.budget, MANY), "exact_up_to"),
    (lambda g: jp.kprune(of(g.model, head="none"), g.texts, g.budget, jp.KPrune(temperature=1.0)), "temperature"),
    (
        lambda g: jp.kprune(of(g.model, problem="regression"), g.texts, g.budget, jp.KPrune(temperature=1.0)),
        "temperature",
    ),
    (lambda g: jp.kprune(g.model, g.texts, g.budget, jp.KPrune(query_heads=True)), "query_heads"),
    (lambda g: jp.export(g.model, g.out, fill_zeros=True), "fill_zeros"),
]

# Fields that have an effect wherever they may be given; seeds may stand where nothing is drawn.
ALWAYS = {
    jp.Train: "batch_size learning_rate warmup weight_decay clip dropout accumulate remat dtype moments_dtype keep "
    "seed result_dtype",
    jp.Lora: "projections rslora train rank_pattern alpha_pattern",
    jp.PruneLora: "remove_heads remove_neurons rank_budget alpha rslora projections train",
    jp.Recap: "rounds epochs_per_round remove freeze cost samples moments outer measure_on learning_rate",
    jp.KPrune: "search refit seed",
    jp.Fisher: "rearrange refit seed",
    jp.Magnitude: "refit",
    jp.Random: "refit seed",
    jp.Flap: "criterion compensate refit",
    jp.Taylor: "refit",
    jp.Budget: "remove cost length round_to uniform",
    Sampling: "max_new_tokens temperature",
}


@pytest.mark.parametrize(("make", "name"), ALONE)
def test_a_setting_without_effect_beside_others_is_named(make, name):
    with pytest.raises((SettingsError, BudgetError), match=rf"\b{name}\b") as error:
        make()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("call", "name"), WITH_MODEL)
def test_a_setting_without_effect_on_a_model_is_named_before_the_work(call, name, model, task, tmp_path):  # noqa: F811
    fresh = model.replace(provenance=replace(model.provenance, warnings=(f"no weights for the head: {NEW_WEIGHTS}.",)))
    given = SimpleNamespace(
        model=model, fresh=fresh, task=task, out=tmp_path / "out", texts=task.calibration(16), budget=jp.Budget(0.5)
    )
    with pytest.raises(SettingsError, match=name) as error:
        call(given)
    assert "\n" not in str(error.value)


def test_every_setting_is_in_one_of_the_tables():
    """A new field has an effect everywhere, or a line above says where it has none."""
    named = {name for _, name in (*ALONE, *WITH_MODEL)}
    classes = {*ALWAYS, *METHODS.values()}
    for cls in classes:
        always = set(ALWAYS[cls].split())
        fields = {field.name for field in dataclasses.fields(cls)}
        assert always <= fields
        assert not fields - always - named, (cls, fields - always - named)


def test_presets_can_be_changed_without_naming_what_they_set():
    """What a preset sets was not given: without a refit, its ridge is no mistake of the caller's."""
    assert replace(PUBLISHED, refit=False).fit.kind == "none"
    replace(jp.PruneLora.presets()["published"], score="magnitude")
    replace(jp.Recap.presets()["published-bert-cola"], remove=0.0)
    for cls in METHODS.values():
        for preset in (cls(), *cls.presets().values()):
            dataclasses.replace(preset)


def test_open_settings_are_filled_in_where_they_have_an_effect(model):  # noqa: F811
    a = model.architecture
    train = jp.Train().resolved(a, adapted=False)
    assert (train.epochs, train.learning_rate, train.distillation.temperature) == (3, 5e-5, 2.0)
    assert jp.Train(epochs=5).resolved(a, adapted=True).epochs == 5
    lora = jp.PruneLora().settled()
    assert (lora.score, lora.samples, lora.head_steps) == ("gates", 256, 50)
    assert (lora.high_blocks, lora.high_rank, lora.low_rank) == (4, 8, 4)
    assert jp.PruneLora(rank_budget=600).settled().high_blocks is None
    assert (jp.PruneLora().settled(handed_in=True).score, jp.PruneLora(score="random").settled().samples) == (
        None,
        None,
    )
    assert jp.KPrune().settled(a).ridge == 2000.0 and jp.KPrune(refit=False).settled(a).ridge is None
    assert jp.KPrune(search="gates").settled(a).elimination_ridge is None
