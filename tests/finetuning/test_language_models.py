"""Language models train on running text: whole, by adapters, from a teacher; resumed, in parts, in half precision."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprune as jp
from jaxprune.errors import NumericalError, SettingsError
from jaxprune.finetuning.epochs import batches_for
from jaxprune.finetuning.lora import patterns_of
from jaxprune.finetuning.recap import run_recap
from jaxprune.finetuning.settings import Train
from jaxprune.finetuning.texts import prepare
from jaxprune.finetuning.train import train
from jaxprune.model import forward
from jaxprune.model.transformer import apply_head
from tests.finetuning.conftest import WORDS
from tests.helpers.decoders import language_model
from tests.helpers.tiny import config, random_model

LENGTH = 16
SETTINGS = Train(epochs=2, batch_size=8, learning_rate=1e-2, dropout=0.0)


def sentences(random, count):
    """Text in which a word says what the next one is likely to be."""
    after = {word: WORDS[number + 1 :] + WORDS[: number + 1] for number, word in enumerate(WORDS)}
    words = ["the"]
    for _ in range(count):
        words.append(after[words[-1]][random.geometric(0.6) % len(WORDS)])
    return " ".join(words)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder, random = tmp_path_factory.mktemp("text"), np.random.RandomState(0)
    for name, count in (("train.txt", 400), ("valid.txt", 100)):
        (folder / name).write_text(sentences(random, count))
    return folder


@pytest.fixture(scope="module")
def task(files):
    return jp.tasks.text(files / "valid.txt", calibration=files / "train.txt", length=LENGTH)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return language_model(tmp_path_factory.mktemp("llama") / "model", "llama", tie_word_embeddings=False)


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    return language_model(tmp_path_factory.mktemp("gpt2") / "model", "gpt2")


def test_a_vocabulary_that_is_the_embeddings_is_in_no_adapters_folder(gpt2, task, tmp_path):
    """PEFT would load it as embeddings and leave the output as it was."""
    lora = jp.Lora(rank=2, train=("embed/*",))
    with pytest.raises(SettingsError, match="embed/token trains, which is the vocabulary of the output too"):
        jp.finetune(gpt2, task, SETTINGS, lora=lora, adapter_out=tmp_path / "adapter")


def test_text_that_is_learnt_and_scored_is_a_doubt(llama, files):
    (files / "long.txt").write_text("the film was great and the crew was bad and the story was so long\n" * 30)
    same = jp.tasks.text(files / "long.txt", calibration=files / "long.txt", length=LENGTH)
    tuned = jp.finetune(llama, same, replace(SETTINGS, epochs=1))
    assert any("30 lines of the training text are in the evaluation text too" in w for w in tuned.provenance.warnings)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_training_lowers_perplexity_and_says_what_it_did(name, task, request):
    model = request.getfixturevalue(name)
    before = jp.evaluate(model, task).score
    tuned = jp.finetune(model, task, replace(SETTINGS, epochs=5, learning_rate=3e-2))
    notes = tuned.provenance.record["training"]
    score = jp.evaluate(tuned, task).score
    assert score < 0.9 * before
    assert score == pytest.approx(notes["epochs"][-1]["score"], rel=1e-5)
    assert notes["epochs"][0]["metric"] == "perplexity"
    assert (notes["texts"], notes["tokens"]) == (25, 400)
    assert notes["batch"]["steps"] == 4


def test_the_first_loss_is_that_of_the_text(llama, task):
    """The mean over tokens, whichever batches they lie in: that of the whole training text by whole logits."""
    texts = prepare(llama, task)
    batches = batches_for(texts.encoded, llama.architecture, SETTINGS)
    still = replace(SETTINGS, epochs=1, learning_rate=1e-12)
    loss = train(llama, batches, texts.targets, still).epochs[0]["loss"]
    ids = jnp.asarray(np.stack(texts.encoded.ids))
    logits = jp.logits(llama, ids)
    by_hand = optax.losses.softmax_cross_entropy_with_integer_labels(logits[:, :-1], ids[:, 1:])
    assert loss == pytest.approx(float(jnp.mean(by_hand)), rel=1e-5)


def test_steps_are_those_of_a_plain_loop(llama, task):
    """AdamW with clipping on whole logits, written out."""
    texts = prepare(llama, task)
    batches = batches_for(texts.encoded, llama.architecture, SETTINGS)(0)
    settings = replace(SETTINGS, epochs=1, warmup=0.0)
    told = []
    train(llama, lambda _: batches, texts.targets, settings, on_step=lambda event: told.append(event["loss"]))

    def loss(params, batch):
        logits = apply_head(params, forward(params, batch, llama.architecture).hidden, batch, llama.architecture)
        each = optax.losses.softmax_cross_entropy_with_integer_labels(logits[:, :-1], batch.ids[:, 1:])
        real = batch.segments[:, 1:] > 0
        return jnp.sum(jnp.where(real, each, 0)) / jnp.sum(real)

    decays = jax.tree_util.tree_map_with_path(
        lambda path, _: not {"bias", "scale"} & {key.key for key in path if hasattr(key, "key")}, llama.params
    )
    schedule = lambda step: settings.learning_rate * (1 - step / len(batches))  # noqa: E731
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=settings.weight_decay, mask=decays)
    )
    params, state, expected = llama.params, optimizer.init(llama.params), []
    gradient = jax.jit(jax.value_and_grad(loss))
    for batch in batches:
        value, slope = gradient(params, jax.tree.map(jnp.asarray, batch))
        updates, state = optimizer.update(slope, state, params)
        params = optax.apply_updates(params, updates)
        expected.append(float(value))
    np.testing.assert_allclose(told, expected, rtol=2e-5)


def test_parts_and_recomputation_leave_the_losses_alone(llama, task):
    texts = prepare(llama, task)
    told = []
    for settings in (SETTINGS, replace(SETTINGS, accumulate=4), replace(SETTINGS, remat=True)):
        batches = batches_for(texts.encoded, llama.architecture, settings)
        told.append([record["loss"] for record in train(llama, batches, texts.targets, settings).epochs])
    np.testing.assert_allclose(told[1:], [told[0]] * 2, rtol=2e-5)


def test_of_text_that_is_learnt_in_part_only_that_counts(llama, task):
    """A change of what is not learnt, after the last learnt token, changes no loss."""
    texts = prepare(llama, task)
    targets = np.zeros((len(texts.encoded), LENGTH), np.int8)
    targets[:, 3:6] = 1
    other = replace(texts.encoded, ids=[np.append(ids[:6], np.full(LENGTH - 6, 7)) for ids in texts.encoded.ids])
    losses = []
    for encoded in (texts.encoded, other):
        batches = batches_for(encoded, llama.architecture, SETTINGS)
        losses.append(train(llama, batches, targets, replace(SETTINGS, epochs=1)).epochs[0]["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_adapters_train_and_merge(llama, task, tmp_path):
    tuned = jp.finetune(
        llama, task, replace(SETTINGS, learning_rate=3e-2), lora=jp.Lora(rank=4, projections=("q", "v", "up", "down")),
        adapter_out=tmp_path / "adapter",
    )  # fmt: skip
    notes = tuned.provenance.record["training"]
    assert notes["epochs"][-1]["score"] < 0.95 * jp.evaluate(llama, task).score
    assert notes["merged_vs_unmerged"] < 1e-5
    assert jp.evaluate(jp.load_adapter(llama, tmp_path / "adapter"), task).score == pytest.approx(
        notes["epochs"][-1]["score"], rel=1e-4
    )


def test_prune_lora_cuts_groups_of_heads_and_neurons_by_next_token_loss(llama, gpt2, task, tmp_path):
    for number, model in enumerate((llama, gpt2)):
        settings = jp.PruneLora(
            remove_heads=0.3, remove_neurons=0.3, samples=8, projections=("q", "v", "up", "down"),
            rank_budget=4_000,
        )  # fmt: skip
        small = jp.prune_lora(model, task, settings, SETTINGS, adapter_out=tmp_path / f"{number}")
        record = small.provenance.record
        assert record["calibration"]["count"] == 8
        assert record["settings"]["head_steps"] == 0
        assert sum(size.groups for size in small.architecture.layers) == 4  # of 6
        assert record["training"]["epochs"][-1]["loss"] < record["training"]["epochs"][0]["loss"]
        base = jp.load(tmp_path / f"{number}" / "base")
        merged = jp.load_adapter(base, tmp_path / f"{number}")
        assert jp.evaluate(merged, task).score == pytest.approx(jp.evaluate(small, task).score, rel=1e-4)
    with pytest.raises(SettingsError, match=r"head_steps \(5\) has no effect on a language model"):
        jp.prune_lora(llama, task, jp.PruneLora(head_steps=5), SETTINGS)


@pytest.mark.parametrize("name, outer", [("llama", "frozen"), ("gpt2", "touched"), ("gpt2", "frozen")])
def test_recap_goes_its_rounds_on_a_language_model(name, outer, task, request):
    """The vocabulary, tied or not, counts with the embeddings: frozen it keeps its bits, touched most rows do."""
    model = request.getfixturevalue(name)
    some = jp.tasks.of_ids(4 + np.arange(160).reshape(10, 16) % 9, None)
    data = replace(some, train=some.validation) if outer == "touched" else task
    settings = jp.Recap(rounds=2, remove=0.3, outer=outer)
    small = jp.recap(model, data, settings, replace(SETTINGS, epochs=2))
    record = small.provenance.record
    first, second = record["training"]["epochs"]
    assert second["loss"] < first["loss"]
    # The second round has the first one's widths, and so its programs.
    assert [len(heads) for heads in second["heads"]] == [len(heads) for heads in first["heads"]]
    assert second["neurons"] == first["neurons"]
    assert (first["compiled"] > 0) == (first["compile_seconds"] > 0) == (second["compiled"] == 0)
    assert record["masked_vs_cut"] < 1e-5
    assert record["training"]["epochs"][0]["metric"] == "perplexity"
    assert jp.evaluate(small, data).score < 1.2 * jp.evaluate(model, data).score
    tables = [(small.params["embed"]["token"], model.params["embed"]["token"])]
    if not model.architecture.tied:
        tables.append((small.params["head"]["kernel"], model.params["head"]["kernel"]))
    for ours, theirs in tables:
        moved = np.any(np.asarray(ours) != np.asarray(theirs), axis=1)
        assert np.flatnonzero(moved).tolist() == ([] if outer == "frozen" else list(range(4, 13)))


@pytest.mark.parametrize("name, outer", [("llama", "train"), ("gpt2", "frozen")])
def test_recaps_full_model_teaches_over_the_whole_vocabulary(name, outer, request):
    """A round that moves nothing: its loss is that of the small model's plain logits against the full one's."""
    model, ids = request.getfixturevalue(name), 4 + np.arange(160).reshape(10, 16) ** 2 % 9
    model = model.replace(params=jax.tree.map(lambda leaf: 3 * leaf, model.params))  # which says more
    some = jp.tasks.of_ids(ids, None)
    still = Train(batch_size=4, learning_rate=1e-30, dropout=0.0, distill=0.5, temperature=3.0)
    settings = jp.Recap(rounds=1, epochs_per_round=2, remove=0.5, freeze=0.5, outer=outer)
    found = run_recap(model, replace(some, train=some.validation), settings, still)
    ours, theirs = (jax.nn.log_softmax(jp.logits(each, ids)[:, :-1]) for each in (found.model, model))
    ours3, theirs3 = (jax.nn.log_softmax(each / 3) for each in (ours, theirs))
    own = -np.take_along_axis(np.asarray(ours), ids[:, 1:, None], axis=-1)[..., 0]
    gap = np.sum(np.exp(theirs3) * (theirs3 - ours3), axis=-1)
    assert gap.mean() > 1e-2
    assert found.rounds[0]["loss"] == pytest.approx(float(np.mean(0.5 * own + 0.5 * 9 * gap)), rel=1e-4)


def test_a_teacher_brings_a_pruned_model_back(llama, task):
    """Without the text's own tokens in the loss (distill 1), the student comes closer to the dense model."""
    taught = jp.finetune(llama, task, SETTINGS)  # a model that knows something
    pruned = jp.prune(taught, task.calibration(8), jp.Budget(0.5), jp.Magnitude())
    lost = jp.evaluate(pruned, task).score
    recovered = jp.finetune(
        pruned, task, replace(SETTINGS, distill=1.0, temperature=1.0, distill_hidden=0.5), teacher=taught
    )
    assert jp.evaluate(taught, task).score < jp.evaluate(recovered, task).score < lost
    same = replace(SETTINGS, epochs=1, distill=1.0, learning_rate=1e-9)
    texts = prepare(taught, task)
    batches = batches_for(texts.encoded, taught.architecture, same)
    assert train(taught, batches, texts.targets, same, teacher=taught).epochs[0]["loss"] == pytest.approx(0, abs=1e-6)


def test_a_killed_run_goes_on_to_the_same_bits(llama, task, tmp_path):
    whole = jp.finetune(llama, task, SETTINGS)

    def stop(event):
        if event["done"] == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        jp.finetune(llama, task, SETTINGS, out=tmp_path / "run", on_step=stop)
    resumed = jp.finetune(llama, task, SETTINGS, out=tmp_path / "run", resume=True)
    jax.tree.map(np.testing.assert_array_equal, resumed.params, whole.params)


def test_the_best_epoch_has_the_lowest_perplexity(llama, task):
    tuned = jp.finetune(llama, task, replace(SETTINGS, epochs=3, learning_rate=0.05))
    notes = tuned.provenance.record["training"]
    scores = [record["score"] for record in notes["epochs"]]
    assert notes["kept_epoch"] == int(np.argmin(scores))
    assert jp.evaluate(tuned, task).score == pytest.approx(min(scores), rel=1e-5)


def test_half_precision_keeps_float32_masters(llama, task):
    """At this rate a step is less than half a unit in the last place of most bfloat16 weights."""
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), llama.params)
    settings = replace(SETTINGS, dtype="bfloat16", learning_rate=1e-5)
    texts = prepare(llama, task)
    batches = batches_for(texts.encoded, llama.architecture, settings)
    trained = train(llama.replace(params=half), batches, texts.targets, settings).model.params
    moved = [
        float(np.mean(np.asarray(a, np.float32) != np.asarray(b, np.float32)))
        for a, b in zip(jax.tree.leaves(trained), jax.tree.leaves(half), strict=True)
    ]
    assert np.median(moved) > 0.95


def test_rows_of_token_ids_train_without_a_tokenizer(llama):
    random = np.random.RandomState(0)
    ids = 4 + np.cumsum(random.randint(1, 3, (24, LENGTH)), axis=1) % len(WORDS)
    rows = jp.tasks.of_ids(ids, None)
    task = replace(rows, train=rows.validation)
    bare = llama.replace(provenance=replace(llama.provenance, source=None, tokenizer=None))
    tuned = jp.finetune(bare, task, replace(SETTINGS, epochs=8, learning_rate=1e-2))
    assert jp.evaluate(tuned, task).score < 0.7 * jp.evaluate(bare, task).score


def test_rows_of_token_ids_are_taught_without_a_tokenizer(llama, gpt2, tmp_path):
    """What a tokenizer would say cannot be compared, which is a doubt; ids that the teacher has not are an error."""
    rows = jp.tasks.of_ids(4 + np.arange(384).reshape(24, LENGTH) % len(WORDS), None)
    task, settings = replace(rows, train=rows.validation), replace(SETTINGS, epochs=1, distill=0.5)
    bare = llama.replace(provenance=replace(llama.provenance, source=None))
    for teacher in (bare, gpt2):
        tuned = jp.finetune(bare, task, settings, teacher=teacher)
        assert any("mean the same to the teacher" in warning for warning in tuned.provenance.warnings)
    labelled = jp.tasks.of_ids(np.full((4, 3), 29), None, [0, 1, 0, 1])
    wide, narrow = (random_model(config("bert", num_labels=3, vocab_size=size)) for size in (30, 20))
    with pytest.raises(SettingsError, match="hold token id 29, the teacher's embedding 20 rows"):
        jp.finetune(wide, replace(labelled, train=labelled.validation), settings, teacher=narrow)


def test_what_cannot_be_meant_is_refused(llama, gpt2, task, tmp_path):
    other = language_model(tmp_path / "wider", "llama", vocab_size=40)
    with pytest.raises(SettingsError, match="the teacher's vocabulary has 40 tokens, the model's 26"):
        jp.finetune(llama, task, replace(SETTINGS, distill=0.5), teacher=other)
    with pytest.raises(SettingsError, match=r"holdout \(4\) has no effect on running text"):
        jp.finetune(llama, task, replace(SETTINGS, holdout=4))
    with pytest.raises(SettingsError, match=r"smoothing \(0.1\) has no effect on causal_lm"):
        jp.finetune(llama, task, replace(SETTINGS, smoothing=0.1))
    with pytest.raises(NumericalError, match="the loss is inf at step 1"):
        broken = jax.tree.map(lambda leaf: leaf, gpt2.params)
        broken["final_norm"]["scale"] = broken["final_norm"]["scale"] * 1e38
        jp.finetune(gpt2.replace(params=broken), task, SETTINGS)


def test_a_vocabulary_that_is_named_trains_beside_adapters(llama, gpt2, task, tmp_path):
    """By default it does not; a model that ties it to its embeddings has no such leaf."""
    few, lora = replace(SETTINGS, epochs=1), jp.Lora(rank=2, train=("head/*",))
    tuned = jp.finetune(llama, task, few, lora=lora, adapter_out=tmp_path / "adapter")
    assert np.any(np.asarray(tuned.params["head"]["kernel"]) != np.asarray(llama.params["head"]["kernel"]))
    ids = np.arange(4, 14).reshape(2, 5)
    again = jp.load_adapter(llama, tmp_path / "adapter")
    np.testing.assert_allclose(jp.logits(again, ids), jp.logits(tuned, ids), atol=1e-5)
    assert patterns_of(jp.Lora(), llama.architecture) == patterns_of(jp.Lora(), gpt2.architecture) == ("*norm/*",)
    with pytest.raises(SettingsError, match=r"pattern 'head/\*' matches no leaf of the model"):
        jp.finetune(gpt2, task, few, lora=lora)
