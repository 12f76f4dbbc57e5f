"""Models of images are pruned, tuned and written as those of texts are."""

import numpy as np
import pytest

import jaxprune as jp
from jaxprune.errors import CheckpointError, DataError, SettingsError
from jaxprune.finetuning.lora import Lora
from jaxprune.pruning.cost import flops
from tests.helpers.images import SIZE, pixels, write_model, write_npz

PIXELS = np.random.RandomState(0).normal(size=(2, 3, SIZE, SIZE)).astype(np.float32)
METHODS = {
    "kprune": jp.KPrune(),
    "fisher": jp.Fisher(),
    "magnitude": jp.Magnitude(),
    "random": jp.Random(),
}


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write_npz(root / "train.npz", 64)
    write_npz(root / "validation.npz", 32, seed=1)
    return jp.tasks.images(root)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return {
        family: jp.load(write_model(tmp_path_factory.mktemp(family) / "model", family)) for family in ("vit", "deit")
    }


@pytest.mark.parametrize("name", METHODS)
def test_a_method_prunes_to_its_budget(name, task, models, tmp_path):
    model = models["vit"]
    small = jp.prune(model, task.calibration(64), jp.Budget(0.4), METHODS[name])
    assert small.report.removed.flops >= 0.4 and small.report.masked_vs_cut < 1e-5
    assert small.report.budget is not None and small.report.budget.length == 10  # an image's tokens
    assert small.report.calibration is not None and small.report.calibration.tokens == 640
    again = jp.load(jp.save(small, tmp_path / "small"))
    assert again.architecture == small.architecture
    np.testing.assert_array_equal(jp.logits(again, PIXELS), jp.logits(small, PIXELS))
    if name == "kprune":
        [first, *_] = jp.predict(again, pixels(4)[0])
        assert set(first.probabilities) == {"dark", "light"}
        assert "image-classification" in (tmp_path / "small" / "README.md").read_text()
        written = jp.export(small, tmp_path / "out", fill_zeros=True)
        filled = jp.load(written.folder)
        assert filled.architecture == model.architecture
        # Removed units are zero there, sublayers that lost all keep their biases. float32, two layers.
        np.testing.assert_allclose(jp.logits(filled, PIXELS), jp.logits(small, PIXELS), atol=2e-6)
        assert (written.folder / "preprocessor_config.json").is_file()
        with pytest.raises(CheckpointError, match="no file is written for it; export with fill_zeros"):
            jp.export(small, tmp_path / "uneven")


@pytest.mark.parametrize("family", ["vit", "deit"])
def test_a_run_is_planned(family, task, models):
    model, tokens = models[family], models[family].architecture.patches.tokens
    budget, texts = jp.Budget(0.4), task.calibration(64)
    told = jp.plan(model, 64, budget, jp.Magnitude())
    assert (told.length, told.calibration.texts, told.calibration.tokens) == (tokens, 64, 64 * tokens)
    assert told.seconds > 0 and f"{tokens} an image; no images were given" in told.assumptions[0]
    small = jp.prune(model, texts, budget, jp.Magnitude())
    assert flops(small.architecture, tokens) <= told.pruned[0].prunable_flops
    if family == "vit":
        assert jp.plan(model, texts, budget, jp.Magnitude()).calibration == told.calibration
        with pytest.raises(DataError, match=r"images are 10 tokens to the model, not 12; leave length out"):
            jp.plan(model, 64, budget, jp.Magnitude(), length=12)


@pytest.mark.parametrize(
    "tune",
    [
        lambda base, task: jp.finetune(base, task, jp.Train(epochs=12, learning_rate=1e-2, batch_size=16)),
        lambda base, task: jp.prune_lora(base, task, jp.PruneLora(remove_neurons=0.3), jp.Train(epochs=1)),
        lambda base, task: jp.recap(base, task, jp.Recap(rounds=2, remove=0.3, freeze=0.5)),
        lambda base, task: jp.finetune(base, task, jp.Train(epochs=1, distill=0.5), lora=Lora(rank=2), teacher=base),
    ],
    ids=["full", "prune-lora", "recap", "lora"],
)
def test_tuning(tune, task, models, tmp_path, request):
    tuned = tune(models["deit"], task)
    again = jp.load(jp.save(tuned, tmp_path / "tuned"))
    assert again.architecture == tuned.architecture
    np.testing.assert_array_equal(jp.logits(again, PIXELS), jp.logits(tuned, PIXELS))
    embed = tuned.params["embed"]
    assert embed["token"].shape == (2, 12) and embed["patch"]["kernel"].shape == (12, 12)
    if request.node.callspec.id == "full":  # which trains patches, too
        assert jp.evaluate(tuned, task).score > max(0.8, jp.evaluate(models["deit"], task).score)
        assert not np.array_equal(embed["patch"]["kernel"], models["deit"].params["embed"]["patch"]["kernel"])


def test_a_run_that_was_stopped_goes_on_with_the_same_images_only(task, models, tmp_path):
    model, settings = models["vit"], jp.Train(epochs=1)
    jp.finetune(model, task, settings, out=tmp_path / "run")
    write_npz(tmp_path / "other" / "train.npz", 64, seed=5)
    write_npz(tmp_path / "other" / "validation.npz", 32, seed=1)
    with pytest.raises(SettingsError, match="texts"):
        jp.finetune(model, jp.tasks.images(tmp_path / "other"), settings, out=tmp_path / "run", resume=True)


def test_teachers_that_read_other_pixels_are_refused(task, models, tmp_path):
    other = jp.load(write_model(tmp_path / "other", processor={"size": SIZE, "image_mean": [0.1, 0.1, 0.1]}))
    settings = jp.Train(epochs=1, distill=0.5)
    with pytest.raises(SettingsError, match="take a teacher that reads the same pixels"):
        jp.finetune(models["vit"], task, settings, teacher=other)
    with pytest.raises(SettingsError, match="take a teacher that reads the same patches"):
        jp.finetune(models["vit"], task, settings, teacher=models["deit"])


def test_recap_as_its_authors_ran_it_on_vit():
    vit = jp.Recap.presets()["published-vit"]
    assert (vit.remove, vit.freeze, vit.pruning_steps, vit.rounds, vit.epochs_per_round) == (0.33, 0.875, 2, 10, 2)
    assert (vit.learning_rate, vit.importance, vit.cost) == (1e-4, "weights", "units")
