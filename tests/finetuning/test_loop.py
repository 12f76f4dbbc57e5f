"""The loop: noise, parts, resuming, best epochs, devices. A run that was killed ends as if it had not been."""

import inspect
import json
import os
import signal
from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune.errors import CheckpointError, DataError, NumericalError, OutputError, SettingsError
from jaxprune.finetuning.epochs import batches_for
from jaxprune.finetuning.finetune import tune
from jaxprune.finetuning.losses import Distillation, prediction_gap, summed_losses
from jaxprune.finetuning.run_store import LOG, STATES, SUMS, Saved, Store
from jaxprune.finetuning.step import path_of
from jaxprune.finetuning.texts import prepare
from jaxprune.finetuning.train import train
from jaxprune.model import Dropout, Sites, forward
from jaxprune.model.dropout import drop

# One object for many tests: one compilation. Three steps an epoch.
SETTINGS = jp.Train(epochs=3, batch_size=16, learning_rate=3e-3, seed=5)


def few(path: str) -> bool:
    """Leaves whose training compiles quickly."""
    return path.startswith(("head/", "layers/1/feed_forward/down/"))


def losses_of(run):
    """run(on_step) -> the losses it told, by step."""
    told = {}
    run(lambda event: told.update({event["done"]: event["loss"]}))
    return told


@pytest.fixture
def ready(model, task):
    """Batches, targets of the task, packed for the model."""

    texts = prepare(model, task)
    return batches_for(texts.encoded, model.architecture, SETTINGS), texts.targets


# --- dropout


def test_dropout_zeroes_its_share_and_keeps_the_mean():
    x = jnp.ones((50, 40, 33))
    y = np.asarray(drop(x, Dropout(0.3, jax.random.key(0)), 0))
    assert set(np.round(np.unique(y), 4)) == {0.0, np.float32(round(1 / 0.7, 4))}
    np.testing.assert_allclose(np.mean(y == 0), 0.3, atol=0.008)  # 66,000 draws: a standard error of 0.0018
    assert np.any(y != np.asarray(drop(x, Dropout(0.3, jax.random.key(0)), 1)))


@pytest.mark.parametrize("remat", [False, True])
def test_attention_written_out_for_dropout_is_the_same_attention(model, ready, remat):
    batch = jax.tree.map(jnp.asarray, ready[0](0)[0])
    run = jax.jit(
        lambda dropout: forward(model.params, batch, model.architecture, Sites(dropout=dropout), remat=remat).logits
    )
    plain = run(None)
    # A rate below 1 in 65,536 drops nothing, but takes the way that other rates take.
    noiseless = jax.jit(
        lambda key: (
            forward(model.params, batch, model.architecture, Sites(dropout=Dropout(1e-9, key)), remat=remat).logits
        )
    )(jax.random.key(0))
    np.testing.assert_allclose(noiseless, plain, atol=1e-5)


def test_noise_follows_the_seed(model, ready):
    batch = jax.tree.map(jnp.asarray, ready[0](0)[0])
    noisy = jax.jit(
        lambda key: forward(model.params, batch, model.architecture, Sites(dropout=Dropout(0.5, key))).logits
    )
    first, again, other = (np.asarray(noisy(jax.random.key(seed))) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3


# --- the step


def test_parts_of_a_batch_add_up_to_the_whole(model, ready):
    batches, targets = ready
    still = replace(SETTINGS, epochs=1, dropout=0.0)
    parts = replace(still, accumulate=len(batches(0)[0].ids))
    told = [
        list(
            losses_of(lambda tell, s=settings: train(model, batches, targets, s, trainable=few, on_step=tell)).values()
        )
        for settings in (still, parts)
    ]
    np.testing.assert_allclose(told[0], told[1], rtol=1e-5)  # float32 sums in another order


def test_bfloat16_is_close_and_weights_stay_float32(model, ready):
    still = replace(SETTINGS, epochs=1, dropout=0.0)
    runs = [
        train(model, *ready, settings=replace(still, dtype=dtype), trainable=few) for dtype in ("float32", "bfloat16")
    ]
    assert {leaf.dtype for leaf in jax.tree.leaves(runs[1].model.params)} == {jnp.dtype("float32")}
    ours, theirs = (run.epochs[0]["loss"] for run in runs)
    assert 0 < abs(ours - theirs) < 0.02


# --- distillation


def test_teacher_terms_are_textbook(model, ready):
    batch = jax.tree.map(jnp.asarray, ready[0](0)[0])
    random = np.random.RandomState(0)
    shape = (*batch.index.shape, 2)
    student, teacher = (jnp.asarray(random.normal(0, 2, shape), jnp.float32) for _ in range(2))
    p, q = (np.exp(np.asarray(x) / 3) for x in (teacher, student))
    p, q = p / p.sum(-1, keepdims=True), q / q.sum(-1, keepdims=True)
    expected = 9 * np.sum(p * np.log(p / q), axis=-1)
    np.testing.assert_allclose(
        prediction_gap(student, teacher, batch, model.architecture, 3.0), expected, rtol=1e-4, atol=1e-5
    )
    goal = jnp.asarray(ready[1][np.maximum(batch.index, 0)])
    total = summed_losses(
        model.params, batch, goal, model.architecture,
        teacher=(model.architecture, model.params), distillation=Distillation(1.0, 2.0, 1.0),
    )  # fmt: skip
    np.testing.assert_allclose(total, 0.0, atol=1e-5)  # a student that is its own teacher has nothing to learn


@pytest.mark.parametrize(
    "problem, labels", [("regression", ("x",)), ("multi_label", ("a", "b")), ("question_answering", ())]
)
def test_a_gap_is_zero_only_where_predictions_agree(model, ready, problem, labels):
    batch = jax.tree.map(jnp.asarray, ready[0](0)[0])
    head = "question_answering" if problem == "question_answering" else "classification"
    kind = {"problem": problem} if head == "classification" else {}
    architecture = replace(model.architecture, head=head, labels=labels, **kind)
    shape = (*batch.ids.shape, 2) if head == "question_answering" else (*batch.index.shape, len(labels))
    random = np.random.RandomState(1)
    student, teacher = (jnp.asarray(random.normal(0, 2, shape), jnp.float32) for _ in range(2))
    real = np.asarray(batch.index >= 0)
    np.testing.assert_allclose(prediction_gap(student, student, batch, architecture, 2.0), 0, atol=1e-6)
    assert np.all(np.asarray(prediction_gap(student, teacher, batch, architecture, 2.0))[real] > 1e-3)
    slope = jax.grad(lambda s: jnp.sum(prediction_gap(s, teacher, batch, architecture, 2.0)))(student)
    assert np.isfinite(slope).all()


def test_a_student_comes_closer_to_its_teacher(model, ready):
    random = np.random.RandomState(0)
    shift = lambda path, leaf: leaf + few(path) * random.normal(0, 0.3, leaf.shape).astype(np.float32)  # noqa: E731
    teacher = model.replace(params=jax.tree_util.tree_map_with_path(lambda p, x: shift(path_of(p), x), model.params))
    learn = replace(SETTINGS, epochs=8, learning_rate=3e-2, dropout=0.0, distill=1.0, distill_hidden=1.0)
    losses = losses_of(lambda tell: train(model, *ready, settings=learn, trainable=few, teacher=teacher, on_step=tell))
    assert losses[24] < 0.3 * losses[1]


def test_teachers_that_do_not_fit_are_refused(model, task, ready):
    learn = replace(SETTINGS, distill=0.5)
    with pytest.raises(SettingsError, match="needs a teacher"):
        jp.finetune(model, task, learn)
    other = model.replace(architecture=replace(model.architecture, labels=("a", "b", "c")))
    with pytest.raises(SettingsError, match="3 labels: a, b, c"):
        jp.finetune(model, task, learn, teacher=other)
    turned = model.replace(architecture=replace(model.architecture, labels=("yes", "no")))
    with pytest.raises(SettingsError, match="label 0 of the teacher is yes, of the model no"):
        train(model, *ready, settings=learn, teacher=turned)  # which knows no task to match them by
    with pytest.raises(SettingsError, match="the teacher would teach nothing, as distill and distill_hidden are 0"):
        jp.finetune(model, task, SETTINGS, teacher=model)
    deeper = model.architecture.with_layers(model.architecture.layers * 2)
    with pytest.raises(SettingsError, match="4 layers of width 12"):
        jp.finetune(model, task, replace(learn, distill_hidden=1.0), teacher=model.replace(architecture=deeper))


# --- the texts of a step, and the loss of an epoch


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_step_has_the_texts_that_were_asked_for_and_an_epoch_the_mean_over_its_texts(model, task, accumulate):
    """48 texts, 20 a step: 20, 20 and 8, whatever the parts. A mean of the steps' losses would weigh the 8 like 20."""
    told = {}
    settings = replace(SETTINGS, epochs=1, batch_size=20, accumulate=accumulate, learning_rate=1e-2)
    tuned = jp.finetune(
        model, task, settings, trainable=["head/*"], on_step=lambda event: told.update({event["done"]: event["loss"]})
    )
    notes = tuned.provenance.record["training"]
    assert (notes["batch"]["steps"], notes["batch"]["texts"], notes["epochs"][0]["steps"]) == (3, 16.0, 3)
    assert notes["epochs"][0]["loss"] == pytest.approx((20 * told[1] + 20 * told[2] + 8 * told[3]) / 48, rel=1e-12)


def test_an_epoch_that_was_interrupted_has_the_loss_of_all_its_texts(model, task, tmp_path):
    settings, told = replace(SETTINGS, epochs=1, batch_size=20), {}

    def stop(event):
        told[event["done"]] = event["loss"]
        if event["done"] == 2:
            os.kill(os.getpid(), signal.SIGINT)

    run = {"out": tmp_path / "run", "trainable": ["head/*"]}
    with pytest.raises(KeyboardInterrupt):
        jp.finetune(model, task, settings, on_step=stop, **run)
    tuned = jp.finetune(
        model, task, settings, resume=True, on_step=lambda event: told.update({event["done"]: event["loss"]}), **run
    )
    loss = tuned.provenance.record["training"]["epochs"][0]["loss"]
    assert loss == pytest.approx((20 * told[1] + 20 * told[2] + 8 * told[3]) / 48, rel=1e-12)


# --- what is kept


def test_the_best_epoch_is_the_result(model, ready):
    batches, targets = ready
    seen = []

    def score(current, adapters):
        seen.append(current)
        return {"score": [0.5, 0.9, 0.1][len(seen) - 1]}

    best = train(model, batches, targets, SETTINGS, score=score)
    assert best.kept == 1
    jax.tree.map(np.testing.assert_array_equal, best.model.params, seen[1].params)
    seen.clear()
    last = train(model, batches, targets, replace(SETTINGS, keep="last"), score=score)
    assert last.kept == 2
    jax.tree.map(np.testing.assert_array_equal, last.model.params, seen[2].params)


def test_epochs_can_be_judged_on_texts_set_aside(model, task):
    tuned = jp.finetune(model, task, replace(SETTINGS, holdout=16))
    notes = tuned.provenance.record["training"]
    assert (notes["scored_on"], notes["texts"]) == ("holdout", 32)
    with pytest.raises(SettingsError, match="holdout 48 leaves nothing of 48"):
        jp.finetune(model, task, replace(SETTINGS, holdout=48))


def test_training_learns_and_says_what_it_cost(model, task, folder, tmp_path):
    settings = replace(SETTINGS, epochs=12, learning_rate=2e-2)
    tuned = jp.finetune(model, task, settings, out=tmp_path / "run")
    assert jp.evaluate(tuned, task).score > 0.9 > jp.evaluate(model, task).score
    notes = tuned.provenance.record["training"]
    assert notes["epochs"][notes["kept_epoch"]]["score"] == jp.evaluate(tuned, task).score
    assert notes["bytes"]["moments"] == 8 * notes["trainable_parameters"] == 8 * notes["parameters"]
    jp.save(tuned, tmp_path / "tuned", run_folder=tmp_path / "run")
    again = jp.load(tmp_path / "tuned")
    assert again.provenance.record["training"]["task"] == task.name
    lines = [json.loads(line) for line in (tmp_path / "tuned" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "step" in line] == list(range(1, 37))
    jp.save(again, tmp_path / "tuned", overwrite=True)  # the log is ours, so it may be replaced


# --- interruptions


class Killed(BaseException):
    """Stands in for a kill: nothing may catch it."""


@pytest.fixture(scope="module")
def straight(folder, task, tmp_path_factory):
    """The losses and the result of a run that nothing disturbs."""
    told = {}
    tuned = jp.finetune(
        jp.load(folder), task, SETTINGS, out=tmp_path_factory.mktemp("straight") / "run",
        on_step=lambda event: told.update({event["done"]: event["loss"]}),
    )  # fmt: skip
    return told, tuned


@pytest.mark.parametrize("kind, step, first", [("kill", 5, 4), ("ctrl-c", 5, 6), ("ctrl-c", 6, 7), ("sigterm", 2, 3)])
def test_a_run_that_was_stopped_goes_on_to_the_last_bit(model, task, straight, tmp_path, kind, step, first):
    """A kill loses what came after the last state, of epoch 0; Ctrl-C and SIGTERM lose nothing."""

    def stop(event):
        if event["done"] == step:
            if kind == "kill":
                raise Killed
            os.kill(os.getpid(), signal.SIGINT if kind == "ctrl-c" else signal.SIGTERM)

    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(Killed if kind == "kill" else KeyboardInterrupt):
        jp.finetune(model, task, SETTINGS, out=tmp_path / "run", on_step=stop)
    told = {}
    tuned = jp.finetune(
        model, task, SETTINGS, out=tmp_path / "run", resume=True,
        on_step=lambda event: told.update({event["done"]: event["loss"]}),
    )  # fmt: skip
    losses, result = straight
    assert told == {number: losses[number] for number in range(first, 10)}
    jax.tree.map(np.testing.assert_array_equal, tuned.params, result.params)
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert {line["step"]: line["loss"] for line in lines if "step" in line} == losses
    assert [line["step"] for line in lines if "step" in line] == list(range(1, 10))
    assert [line["epoch"] for line in lines if "score" in line] == [0, 1, 2]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_a_finished_run_resumes_without_training(model, task, straight, tmp_path):
    jp.finetune(model, task, SETTINGS, out=tmp_path / "run")
    again = jp.finetune(
        model, task, SETTINGS, out=tmp_path / "run", resume=True, on_step=lambda e: pytest.fail("trained")
    )
    jax.tree.map(np.testing.assert_array_equal, again.params, straight[1].params)


def test_folders_of_a_run_are_written_out(model, task, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OutputError, match="~/run begins with the home folder's short name"):
        jp.finetune(model, task, SETTINGS, out="~/run")
    with pytest.raises(OutputError, match="~/adapter begins with the home folder's short name"):
        jp.finetune(model, task, SETTINGS, lora=jp.Lora(), adapter_out="~/adapter")
    assert not [*tmp_path.iterdir()]


def test_an_earlier_run_is_not_overwritten_or_mixed(model, task, tmp_path):
    jp.finetune(model, task, SETTINGS, out=tmp_path / "run")
    with pytest.raises(OutputError, match="holds an earlier run"):
        jp.finetune(model, task, SETTINGS, out=tmp_path / "run")
    with pytest.raises(SettingsError, match="setting learning_rate was 0.003, is 0.1"):
        jp.finetune(model, task, replace(SETTINGS, learning_rate=0.1), out=tmp_path / "run", resume=True)
    kernel = model.params["layers"][0]["attention"]["q"]["kernel"]
    nudged = [{**layer, "attention": {**layer["attention"]}} for layer in model.params["layers"]]
    nudged[0]["attention"]["q"] = {**nudged[0]["attention"]["q"], "kernel": kernel + 1}
    other = model.replace(params={**model.params, "layers": nudged})
    with pytest.raises(SettingsError, match="other weights"):
        jp.finetune(other, task, SETTINGS, out=tmp_path / "run", resume=True)


def test_scores_of_other_validation_texts_are_not_mixed(model, task, tmp_path):
    """The best epoch so far is the best on the texts it was scored on."""
    settings, run = replace(SETTINGS, epochs=1), {"out": tmp_path / "run", "trainable": ["head/*"]}
    jp.finetune(model, task, settings, **run)
    changed = task.validation[0]._replace(text="the film was bad")
    turned = task.validation[0]._replace(label=1 - task.validation[0].label)
    for other, name in (
        (replace(task, validation=(changed, *task.validation[1:])), "other validation texts"),
        (replace(task, validation=task.validation[:-1]), "other validation texts; other validation labels"),
        (replace(task, validation=(turned, *task.validation[1:])), "other validation labels"),
        (replace(task, metric="f1"), "other metric"),
    ):
        with pytest.raises(SettingsError, match=rf"run holds another run \({name}\); resume with what it was started"):
            jp.finetune(model, other, settings, resume=True, **run)
    jp.finetune(model, task, settings, resume=True, **run)


def test_what_differs_between_two_runs_is_named_and_nothing_else(model, task, tmp_path):
    """Texts lie in other rows and batches where parts or sizes differ: they are the same texts."""
    settings, run = replace(SETTINGS, epochs=1), {"out": tmp_path / "run", "trainable": ["head/*"]}
    jp.finetune(model, task, replace(settings, accumulate=3), **run)
    turned = (*task.train[1:], task.train[0])
    for other, given, said in (
        ({"accumulate": 1}, task, "setting accumulate was 3, is 1"),
        ({"batch_size": 5}, task, "setting batch_size was 16, is 5; setting accumulate was 3, is 1"),
        ({"accumulate": 3}, replace(task, train=turned), "other texts; other labels"),
    ):
        with pytest.raises(SettingsError, match=rf"run holds another run \({said}\); resume"):
            jp.finetune(model, given, replace(settings, **other), resume=True, **run)


def test_texts_set_aside_may_score_the_last_epoch_where_nothing_else_does(model, task):
    settings = replace(SETTINGS, epochs=1, holdout=16, keep="last")
    with pytest.raises(SettingsError, match=r"holdout \(16\) has no effect with keep 'last' but to take texts"):
        jp.finetune(model, task, settings)
    tuned = jp.finetune(model, replace(task, validation=()), settings, trainable=["head/*"])
    assert tuned.provenance.record["training"]["scored_on"] == "holdout"


def test_a_task_without_texts_to_score_is_refused_before_training(model, task):
    bare = replace(task, validation=())
    with pytest.raises(DataError, match='no examples in split "validation"'):
        jp.finetune(model, bare, SETTINGS, on_step=lambda event: pytest.fail("trained"))
    jp.finetune(model, bare, replace(SETTINGS, epochs=1, holdout=16), trainable=["head/*"])


def test_adapters_on_another_scale_are_another_run(model, task, tmp_path):
    jp.finetune(model, task, SETTINGS, lora=jp.Lora(rank=2), out=tmp_path / "run")
    for other in (jp.Lora(rank=2, alpha=64.0), jp.Lora(rank=2, rslora=True)):
        with pytest.raises(SettingsError, match="other scaling of adapters"):
            jp.finetune(model, task, SETTINGS, lora=other, out=tmp_path / "run", resume=True)


def test_a_disk_too_small_for_a_state_is_one_line(model, task, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(OutputError, match="No space left on device: a state takes .* bytes, 1,000 are free") as error:
        jp.finetune(model, task, SETTINGS, out=tmp_path / "run", on_step=lambda event: pytest.fail("worked"))
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()
    monkeypatch.undo()
    jp.finetune(model, task, replace(SETTINGS, epochs=1), out=tmp_path / "run")


def test_outputs_that_are_not_finite_name_the_step(model, task, monkeypatch):
    def broken(*arguments, **named):
        raise NumericalError("NaN or Inf in the logits of batch 0 of 1")

    monkeypatch.setattr("jaxprune.finetuning.finetune.evaluate", broken)
    with pytest.raises(NumericalError, match="after step 3 of 9 the model's outputs are not finite; lower the"):
        jp.finetune(model, task, SETTINGS)


def test_a_full_disk_stops_the_run_and_keeps_the_older_state(model, task, straight, tmp_path, monkeypatch):
    import orbax.checkpoint as ocp

    save, states = ocp.CheckpointManager.save, []

    def full(self, step, **rest):
        states.append(step)
        if step == 6:
            raise OSError(28, "No space left on device")
        return save(self, step, **rest)

    monkeypatch.setattr(ocp.CheckpointManager, "save", full)
    with pytest.raises(OutputError, match="cannot be written .No space left on device") as error:
        jp.finetune(model, task, SETTINGS, out=tmp_path / "run")
    assert "\n" not in str(error.value) and states == [3, 6]
    monkeypatch.undo()
    told = losses_of(lambda f: jp.finetune(model, task, SETTINGS, out=tmp_path / "run", resume=True, on_step=f))
    assert told == {number: straight[0][number] for number in range(4, 10)}


def test_what_orbax_says_of_a_full_disk_is_one_line(tmp_path, monkeypatch):
    """Of weights that are spread: what its writers say, a hundred characters before the reason."""
    import orbax.checkpoint as ocp

    def full(self, step, **rest):
        writing = f'Error writing "state.00039/0.2" in OCDBT database at local file "{tmp_path}/{"d" * 300}"'
        raise ValueError(f"RESOURCE_EXHAUSTED: {writing}:\nFailed: No space left on device [os_error_code='28']")

    monkeypatch.setattr(ocp.CheckpointManager, "save", full)
    with pytest.raises(OutputError, match=r"run cannot be written \(No space left on device\); what was saved before"):
        Store(tmp_path / "run").save(Saved({"leaf": jnp.zeros(3)}, None, 1, ()))


def test_a_damaged_state_is_one_line(model, task, tmp_path):
    run, settings = tmp_path / "run", replace(SETTINGS, epochs=1)
    jp.finetune(model, task, settings, out=run)
    largest = max((file for file in (run / STATES).rglob("*") if file.is_file()), key=lambda file: file.stat().st_size)
    whole = largest.read_bytes()
    middle = len(whole) // 2
    for damaged in (b"", whole[:middle], whole[:middle] + bytes([whole[middle] ^ 0x40]) + whole[middle + 1 :]):
        largest.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="the state in .*run is damaged: arrays/.* is not as it was") as error:
            jp.finetune(model, task, settings, out=run, resume=True)
        assert "\n" not in str(error.value)
    largest.write_bytes(whole)
    (run / SUMS).unlink()  # a kill can come between the state and its sums
    jp.finetune(model, task, settings, out=run, resume=True)


def test_a_damaged_state_without_sums_is_one_line(model, task, tmp_path):
    jp.finetune(model, task, replace(SETTINGS, epochs=1), out=tmp_path / "run")
    (tmp_path / "run" / SUMS).unlink()
    for file in (tmp_path / "run" / STATES).rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    with pytest.raises(ValueError, match="cannot be read|holds") as error:
        jp.finetune(model, task, replace(SETTINGS, epochs=1), out=tmp_path / "run", resume=True)
    assert "\n" not in str(error.value)


def test_a_folder_of_something_else_is_no_run(model, task, tmp_path):
    jp.save(model, tmp_path / "model")
    (tmp_path / "model" / LOG).write_text("")  # commands leave one there
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("")
    for folder in ("model", "notes"):
        for resume in (False, True):
            with pytest.raises(OutputError, match="holds something other than a run"):
                jp.finetune(model, task, SETTINGS, out=tmp_path / folder, resume=resume)


def test_a_loss_that_is_not_finite_names_step_and_state(model, ready, tmp_path):
    batches, targets = ready

    def broken(epoch):  # the second epoch reads a position whose embedding is NaN
        return [b if epoch == 0 else b._replace(positions=np.full_like(b.positions, 19)) for b in batches(epoch)]

    table = np.array(model.params["embed"]["position"])
    table[19] = np.nan
    nan = model.replace(params={**model.params, "embed": {**model.params["embed"], "position": jnp.asarray(table)}})
    settings = replace(SETTINGS, dropout=0.0)
    with pytest.raises(NumericalError, match="loss is nan at step 4 of 9 .epoch 1.*last good state, of step 3, is in"):
        train(nan, broken, targets, settings, store=Store(tmp_path / "run"), trainable=few)


# --- labels


def test_texts_without_labels_are_named(model, task):
    bare = replace(task, train=(*task.train[:3], task.train[3]._replace(label=None), *task.train[4:]))
    with pytest.raises(DataError, match=r"train text 3 has no label, or -1 \(1 of 48 have none\)"):
        jp.finetune(model, bare, SETTINGS)
    with pytest.raises(DataError, match='no examples in split "train"'):
        jp.finetune(model, replace(task, train=()), SETTINGS)


@pytest.mark.parametrize("tune", [jp.finetune, jp.prune_lora, jp.recap])
def test_running_text_is_refused_by_a_classifier(tune, model, tmp_path):
    (tmp_path / "text.txt").write_text("the film was good " * 40)
    running = jp.tasks.text(tmp_path / "text.txt", calibration=tmp_path / "text.txt", length=8)
    with pytest.raises(DataError, match="text needs a causal_lm head, the model has classification"):
        tune(model, running)


def test_a_class_without_texts_is_a_warning(model, task):
    ones = replace(task, train=tuple(e for e in task.train if e.label == 1))
    tuned = jp.finetune(model, ones, replace(SETTINGS, epochs=1))
    assert any("no training text has label no" in warning for warning in tuned.provenance.warnings)


def test_values_that_may_be_classes_are_a_warning(model, task):
    """pandas writes integers with a point where a label is missing; ratings are not all whole, or are many."""
    value = model.replace(architecture=replace(model.architecture, problem="regression", labels=("score",)))

    def warned(labels):
        rows = tuple(e._replace(label=labels[n % len(labels)]) for n, e in enumerate(task.train))
        task_of = replace(task, kind="regression", labels=("score",), metric="pearson", beside=(), train=rows)
        return [entry for entry in prepare(value, task_of).warnings if "train a regression" in entry]

    told = warned([1.0, 0.0])
    assert len(told) == 1 and told[0].startswith("labels are 0.0, 1.0, whole numbers with a point")
    assert not any(map(warned, ([1.0, 2.5], [1.0], [float(number) for number in range(11)])))


def test_integers_on_a_regression_are_told_of_once(model, task):
    value = model.replace(architecture=replace(model.architecture, problem="regression", labels=("score",)))
    rows = tuple(e._replace(label=n % 3) for n, e in enumerate(task.train))
    numbered = replace(task, labels=("0", "1", "2"), classes_from="numbers", train=rows)
    warnings = prepare(value, numbered).warnings
    assert any("were read as values" in entry for entry in warnings)
    assert not any("with a point" in entry for entry in warnings)


def test_patterns_choose_leaves_and_must_match(model, task):
    settings = replace(SETTINGS, epochs=1, dropout=0.0)
    tuned = tune(model, task, settings, trainable=["layers/1/feed_forward/down/*", "head/*"])
    assert tuned.trained.epochs[0]["steps"] == 3
    assert (
        tuned.model.params["layers"][0]["attention"]["q"]["kernel"]
        is model.params["layers"][0]["attention"]["q"]["kernel"]
    )
    assert np.any(tuned.model.params["head"]["kernel"] != model.params["head"]["kernel"])
    with pytest.raises(SettingsError, match="'layer/\\*' matches no leaf"):
        jp.finetune(model, task, SETTINGS, trainable=["layer/*"])


@pytest.mark.parametrize(
    "wrong",
    [{"batch_size": 0}, {"accumulate": 0}, {"dropout": 1.0}, {"distill": 1.5}, {"temperature": 0.0}],
)
def test_settings_outside_their_range_are_refused(wrong):
    name, value = next(iter(wrong.items()))
    with pytest.raises(SettingsError, match=f"{name} must .*{value}"):
        jp.Train(**wrong)


# --- devices


def test_a_mesh_without_a_data_axis_is_refused(model, task):
    mesh = jax.make_mesh((1,), ("model",))
    with pytest.raises(SettingsError, match="the mesh has axes model; expected data"):
        jp.finetune(model, task, SETTINGS, mesh=mesh)


def test_a_tokenizer_that_is_handed_in_serves_a_model_without_notes(model, task, folder, tmp_path):
    bare = jax.tree.map(jnp.array, model)
    with pytest.raises(CheckpointError, match=r"pass tokenizer=FOLDER.*new\.with_notes_of\(old\)"):
        jp.evaluate(bare, task)
    assert jp.evaluate(bare, task, tokenizer=folder).score == jp.evaluate(model, task).score
    small = jp.random_prune(bare, task.calibration(16), jp.Budget(0.3), tokenizer=folder)
    tuned = jp.finetune(small, task, replace(SETTINGS, epochs=1))  # which has kept it
    (score,) = [entry["score"] for entry in tuned.provenance.record["training"]["epochs"]]
    assert jp.evaluate(jp.load(jp.save(tuned, tmp_path / "tuned")), task).score == score
    verbs = (jp.kprune, jp.fisher, jp.magnitude, jp.random_prune, jp.flap, jp.taylor, jp.prune_lora, jp.recap)
    for verb in (*verbs, jp.finetune, jp.evaluate, jp.generate, jp.plan, jp.save, jp.export):
        assert "tokenizer" in inspect.signature(verb).parameters
