"""A teacher that is not on the device: in host memory, or what it says kept on disk, whole, and known again."""

import re
from dataclasses import replace
from types import SimpleNamespace

import jax
import numpy as np
import pytest

import jaxprune as jp
from jaxprune.errors import CheckpointError, NumericalError, OutputError, SettingsError
from jaxprune.finetuning import guides, run_store
from jaxprune.finetuning.epochs import batches_for
from jaxprune.finetuning.run_store import TAUGHT
from jaxprune.finetuning.taught import NOTES, VALUES, kept
from jaxprune.finetuning.texts import prepare
from jaxprune.runtime.devices import Devices
from jaxprune.runtime.programs import Programs
from jaxprune.tokens.encoded import Masking
from jaxprune.tokens.packing import pack
from tests.finetuning.test_language_models import SETTINGS, files, llama, task as text  # noqa: F401  (fixtures)

LEARN = replace(SETTINGS, distill=0.5, learning_rate=1e-3)
LAYER = ["layers/1/feed_forward/*"]  # compiles quickly


def moved(model):
    """The same model with each weight a little moved: it says something else."""
    random = np.random.RandomState(1)
    change = lambda leaf: np.asarray(leaf * (1 + 0.3 * random.randn(*leaf.shape)), np.float32)  # noqa: E731
    return model.replace(params=jax.tree.map(change, model.params))


@pytest.fixture(scope="module")
def teacher(llama):  # noqa: F811
    return moved(llama)


@pytest.fixture(scope="module")
def encoded(llama, text):  # noqa: F811
    return prepare(llama, text).encoded


PROGRAMS = Programs(devices=Devices(stream=True))


def speaker(teacher):
    return lambda batches: guides.guides_of(teacher.params, batches, teacher.architecture, PROGRAMS)


def losses(tuned):
    return [record["loss"] for record in tuned.provenance.record["training"]["epochs"]]


def test_a_language_model_teaches_the_same_from_wherever_it_is(llama, teacher, text, tmp_path):  # noqa: F811
    once, run = replace(LEARN, epochs=1), tmp_path / "run"
    places = {"device": {}, "host": {}, "disk": {"taught_dtype": "float32"}}
    tuned = {
        place: jp.finetune(
            llama, text, replace(once, teacher_in=place, **more), trainable=LAYER, teacher=teacher,
            out=run if place == "disk" else None,
        )
        for place, more in places.items()
    }  # fmt: skip
    expected = losses(tuned["device"])
    for place in ("host", "disk"):
        assert losses(tuned[place]) == pytest.approx(expected, rel=1e-5)  # sums in another order
    taken = {place: each.provenance.record["training"]["bytes"] for place, each in tuned.items()}
    numbers = lambda tree: sum(np.size(leaf) for leaf in jax.tree.leaves(tree))  # noqa: E731
    assert taken["device"]["teacher"] == 4 * numbers(teacher.params)
    words, batch = 4 * numbers(teacher.params["head"]), 4 * 8 * 16 * 24  # 8 rows of 16 tokens, 24 wide
    assert taken["disk"]["teacher"] == words + batch
    assert words + batch < taken["host"]["teacher"]
    step = {place: each["predicted"] - each["teacher"] for place, each in taken.items()}
    assert step["device"] == step["host"] == step["disk"]


def test_a_teacher_in_host_memory_speaks_of_the_batches_there_are_and_keeps_to_a_limit(
    llama, teacher, text, monkeypatch  # noqa: F811
):  # fmt: skip
    host = replace(LEARN, teacher_in="host")
    with pytest.raises(SettingsError, match="a training step is predicted to need") as error:
        jp.finetune(llama, text, host, teacher=teacher, device_limit=1)
    assert int(re.findall(r"need ([\d,]+) bytes", str(error.value))[0].replace(",", "")) < 2**20
    batches = batches_for(prepare(llama, text).encoded, llama.architecture, host)(0)
    stream, spoken = 4 * 24 * batches[0].ids.size, []
    monkeypatch.setattr(guides, "guides_of", lambda params, group, *_: iter([spoken.append(len(group))]))
    for limit, groups in ((None, [4]), (16 * 3 * stream, [3, 1]), (16 * 2 * stream - 1, [1, 1, 1, 1])):
        spoken.clear()
        list(guides.on_the_way(teacher, Devices(), PROGRAMS, limit)(batches))
        assert spoken == groups


def test_what_a_classifier_said_teaches_the_same(model, task, tmp_path):
    """Of its logits one row a text is kept."""
    settings = jp.Train(epochs=1, batch_size=16, dropout=0.0, distill=0.5)
    learn = lambda place, out=None: jp.finetune(  # noqa: E731
        model, task, replace(settings, teacher_in=place), trainable=["head/*"], teacher=moved(model), out=out
    )
    expected = losses(learn("device"))
    assert losses(learn("disk", tmp_path / "run")) == pytest.approx(expected, rel=1e-5)
    assert np.load(tmp_path / "run" / TAUGHT / VALUES).shape == (48, 2)


def test_a_run_goes_on_with_what_was_said_to_the_same_bits(llama, teacher, text, tmp_path):  # noqa: F811
    learn = lambda out, on_step=None, resume=False: jp.finetune(  # noqa: E731
        llama, text, replace(LEARN, teacher_in="disk"), trainable=LAYER, teacher=teacher, out=tmp_path / out,
        on_step=on_step, resume=resume,
    )  # fmt: skip
    whole, heard = learn("whole"), []

    def stop(event):
        heard.append(event["phase"])
        if event["phase"] == "train" and event["done"] == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learn("stopped", stop)
    assert heard[0] == "teaching"
    heard.clear()
    resumed = learn("stopped", lambda event: heard.append(event["phase"]), resume=True)
    assert set(heard) == {"train"}  # it said everything once
    jax.tree.map(np.testing.assert_array_equal, resumed.params, whole.params)


@pytest.mark.parametrize(("dtype", "off"), [("float32", 0), (None, 2**-11), ("bfloat16", 2**-8)])
def test_what_is_kept_is_what_was_said_of_each_text(teacher, encoded, tmp_path, dtype, off):
    """Whichever batches the texts lie in; rounded to the type."""
    table = kept(tmp_path, teacher, encoded, dtype, speaker(teacher))
    order = np.random.RandomState(0).permutation(len(encoded))
    batches = pack(encoded.picked(order), teacher.architecture, length=48)
    for batch, guide in zip(batches, speaker(teacher)(batches), strict=True):
        index = np.where(np.asarray(batch.index) >= 0, order[np.maximum(batch.index, 0)], -1)
        same = table.of(batch._replace(index=index))
        assert same.dtype == dtype or (dtype is None and same.dtype == np.float16)
        there = np.asarray(batch.segments) > 0
        np.testing.assert_allclose(same[there].astype(np.float32), np.asarray(guide)[there], rtol=off + 1e-5, atol=1e-5)
        assert not same[~there].any()


def test_what_another_teacher_said_or_of_other_texts_is_refused(llama, teacher, encoded, tmp_path):  # noqa: F811
    kept(tmp_path, teacher, encoded, None, speaker(teacher))
    silent = lambda batches: pytest.fail("spoke again")  # noqa: E731
    kept(tmp_path, teacher, encoded, None, silent)
    with pytest.raises(
        SettingsError, match=r"taught holds what a teacher said in another run \(other teacher\); delete"
    ):
        kept(tmp_path, llama, encoded, None, silent)
    with pytest.raises(SettingsError, match=r"\(other texts, windows or tokenizer, other type\)"):
        kept(tmp_path, teacher, encoded.picked(range(9)), "float32", silent)
    other = replace(encoded, ids=[ids[::-1] for ids in encoded.ids])
    (batch, *_) = pack(other, teacher.architecture)
    with pytest.raises(SettingsError, match=r"text \d+ is trained on with other tokens than the teacher read"):
        kept(tmp_path, teacher, encoded, None, silent).of(batch)
    values = tmp_path / TAUGHT / VALUES
    values.write_bytes(values.read_bytes()[:-2] + b"xx")
    with pytest.raises(CheckpointError, match="said.npy is damaged .it is not as it was written.; delete"):
        kept(tmp_path, teacher, encoded, None, silent)
    (tmp_path / TAUGHT / NOTES).write_text('{"of": ')
    with pytest.raises(CheckpointError, match=r"said.json cannot be read .*; delete"):
        kept(tmp_path, teacher, encoded, None, silent)


def test_a_kill_or_a_full_disk_while_it_speaks_leaves_nothing_half(teacher, encoded, tmp_path, monkeypatch):
    monkeypatch.setattr("jaxprune.finetuning.taught.SPOKEN", 1)  # one text at a time
    there = lambda: [path.name for path in (tmp_path / TAUGHT).glob("*")]  # noqa: E731
    heard = []

    def stop(event):
        heard.append(event)
        if len(heard) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kept(tmp_path, teacher, encoded, None, speaker(teacher), stop)
    assert there() == [] and heard[0] == {"phase": "teaching", "done": 1, "of": len(encoded)}
    few = SimpleNamespace(free=100)
    with (
        monkeypatch.context() as patch,
        pytest.raises(OutputError, match="what the teacher says takes .* 100 are free"),
    ):
        patch.setattr(run_store.shutil, "disk_usage", lambda path: few)
        kept(tmp_path, teacher, encoded, None, speaker(teacher))
    assert there() == []
    (tmp_path / TAUGHT / f".{VALUES}.1.part").write_text("of a run that was killed")
    kept(tmp_path, teacher, encoded, None, speaker(teacher))
    assert sorted(there()) == [NOTES, VALUES]


def test_what_no_type_holds_is_refused(teacher, encoded, tmp_path):
    loud = lambda factor: lambda batches: (factor * value for value in speaker(teacher)(batches))  # noqa: E731
    with pytest.raises(SettingsError, match=r"training texts 0 to 24 reaches .*, too large for float16; set taught"):
        kept(tmp_path, teacher, encoded, None, loud(1e6))
    with pytest.raises(NumericalError, match="the teacher says NaN or Inf of training texts 0 to 24"):
        kept(tmp_path, teacher, encoded, None, loud(np.nan))


def test_where_a_teacher_cannot_be_is_said_before_the_work(llama, teacher, text, encoded, tmp_path):  # noqa: F811
    disk = replace(LEARN, teacher_in="disk")
    with pytest.raises(SettingsError, match=r"kept in the run's folder \(teacher_in 'disk'\), and there is none; pass"):
        jp.finetune(llama, text, disk, teacher=teacher)
    with pytest.raises(
        SettingsError, match="distill_hidden 1.0 compares hidden states of every layer, which a teacher"
    ):
        replace(disk, distill_hidden=1.0)
    masked = replace(encoded, masking=Masking(mask=1, special=(), entries=26))
    with pytest.raises(SettingsError, match="words are masked anew in every epoch, and what the teacher says once"):
        guides.chosen_guides(teacher, disk, Devices(), PROGRAMS, masked, tmp_path)
