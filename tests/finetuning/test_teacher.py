"""A teacher reads the tokens that its student reads and names the labels that it names, or it is refused."""

import json
import shutil
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

import jaxprune as jp
from jaxprune.errors import NumericalError, SettingsError
from jaxprune.evaluation.outputs import text_outputs
from jaxprune.finetuning.teacher import fitting
from jaxprune.finetuning.texts import encoded_by, prepare
from jaxprune.tokens.tokenizer import Tokenizer
from tests.helpers import tiny

# One step with all 48 texts. The loss is that before the step: how far the student is from its teacher.
LEARN = jp.Train(epochs=1, batch_size=48, learning_rate=1e-3, dropout=0.0, distill=1.0)
TRAIN = ["head/*"]  # compiles quickly


def gap(model, teacher, task, order=(0, 1)) -> float:
    """T² KL(teacher ‖ student) at T = 2, the mean over the training texts, from what each says alone."""
    says = []
    for each in (model, teacher):
        logits = text_outputs(each, Tokenizer.of(each).encode(task.train, task.max_length)).astype(np.float64) / 2
        says.append(logits - np.log(np.exp(logits).sum(1, keepdims=True)))
    student, teacher = says[0], says[1][:, list(order)]
    return 4 * float(np.mean(np.sum(np.exp(teacher) * (teacher - student), axis=1)))


def taught(model, teacher, task) -> jp.Model:
    return jp.finetune(model, task, LEARN, trainable=TRAIN, teacher=teacher)


def matched(model, teacher, task) -> tuple[list[int], tuple[str, ...]]:
    """Which outputs of the teacher stand where the model has its own, and the doubts."""
    encoded = prepare(model, task).encoded
    fitted, doubts = fitting(teacher, model, task, encoded, partial(encoded_by, task, model.architecture))
    assert fitted.architecture.labels == model.architecture.labels
    before, after = (np.asarray(each.params["head"]["kernel"]) for each in (teacher, fitted))
    return [int(np.argmin(np.abs(before - column[:, None]).sum(0))) for column in after.T], doubts


def first_loss(tuned: jp.Model) -> float:
    return tuned.provenance.record["training"]["epochs"][0]["loss"]


@pytest.fixture
def teacher_of(tmp_path):
    """A random teacher: its family, its labels by id, and a change to its tokenizer.json."""

    def make(folder, labels=("no", "yes"), family="bert", change=lambda tokenizer: None, **changes) -> jp.Model:
        names = {str(number): name for number, name in enumerate(labels)}
        settings = tiny.config(family, head="classification", id2label=names, vocab_size=28, **changes)
        made = tiny.write(tmp_path / "teacher", settings, tiny.tensors(settings, seed=5))
        tokenizer = json.loads((folder / "tokenizer.json").read_text())
        change(tokenizer)
        (made / "tokenizer.json").write_text(json.dumps(tokenizer))
        return jp.load(made)

    return make


def swapped(first: str, second: str):
    def change(tokenizer):
        ids = tokenizer["model"]["vocab"]
        ids[first], ids[second] = ids[second], ids[first]

    return change


def test_a_teacher_that_reads_other_token_ids_is_refused(model, task, folder, teacher_of):
    words = task.train[0].text.split()
    place = words.index("bad")
    teacher = teacher_of(folder, change=swapped("good", "bad"))
    bad, good = (Tokenizer.of(model).backend.token_to_id(word) for word in ("bad", "good"))
    ids = rf"the id {good} \('bad'\) for the teacher, {bad} \('bad'\) for the model"
    with pytest.raises(SettingsError, match=rf"token {place + 1} of training text 0 has {ids}; take a teacher with"):
        taught(model, teacher, task)
    with pytest.raises(SettingsError, match=r"training text 0 has the id"):
        jp.prune_lora(
            model, task, jp.PruneLora(high_rank=2), LEARN, teacher=teacher,
            on_step=lambda event: pytest.fail("worked before it looked"),
        )  # fmt: skip


def test_words_that_no_text_holds_may_differ(model, task, folder, teacher_of):
    assert matched(model, teacher_of(folder, change=swapped("when", "who")), task) == ([0, 1], ())


def test_a_teacher_with_fewer_positions_or_token_embeddings_is_refused(model, task, folder, teacher_of, tmp_path):
    teacher = teacher_of(folder, max_position_embeddings=5)
    with pytest.raises(
        SettingsError, match="the teacher has 5 positions, training text 0 has 6 tokens, so that token 5"
    ):
        taught(model, teacher, task)
    shutil.rmtree(tmp_path / "teacher")
    few = teacher_of(folder)
    table = few.params["embed"]["token"][:7]
    small = few.replace(
        architecture=replace(few.architecture, vocab=7),
        params={**few.params, "embed": {**few.params["embed"], "token": table}},
    )
    (tmp_path / "teacher" / "tokenizer.json").unlink()
    with pytest.raises(SettingsError, match=r"has the id \d+ \('\w+'\), the teacher's embedding 7 rows"):
        taught(model, small, task)


def test_a_teacher_whose_own_tokenizer_goes_beyond_its_embedding_is_the_one_that_is_blamed(
    model, task, folder, teacher_of
):
    def change(tokenizer):
        tokenizer["model"]["vocab"]["bad"] = 99

    with pytest.raises(SettingsError, match=r"has the id 99 \('bad'\) for the teacher, \d+ \('bad'\) for the model"):
        taught(model, teacher_of(folder, change=change), task)


def test_a_teacher_whose_weights_are_not_finite_is_the_one_that_is_blamed(model, task, folder, teacher_of):
    teacher = teacher_of(folder)
    head = {**teacher.params["head"], "bias": np.full(2, np.nan, np.float32)}
    with pytest.raises(NumericalError, match="tensor head.bias of the teacher holds NaN or Inf"):
        matched(model, teacher.replace(params={**teacher.params, "head": head}), task)


def test_a_teacher_without_a_tokenizer_is_a_doubt(model, task, folder, teacher_of, tmp_path):
    teacher = teacher_of(folder)
    (tmp_path / "teacher" / "tokenizer.json").unlink()
    assert matched(model, teacher, task)[1][0].startswith("that the teacher reads the same token ids could not be")


def test_labels_are_matched_by_name(model, task, folder, teacher_of):
    teacher = teacher_of(folder, labels=("Yes", "NO"))
    assert matched(model, teacher, task) == ([1, 0], ())
    loss = first_loss(taught(model, teacher, task))
    assert loss == pytest.approx(gap(model, teacher, task, (1, 0)), rel=1e-4)
    assert loss != pytest.approx(gap(model, teacher, task), rel=1e-2)


def test_labels_without_names_are_matched_through_the_task(model, task, folder, teacher_of):
    """The model's outputs are the task's classes by number, the teacher's by name."""
    teacher = teacher_of(folder, labels=("yes", "no"))
    plain = model.replace(architecture=replace(model.architecture, labels=("LABEL_0", "LABEL_1")))
    assert matched(plain, teacher, task) == ([1, 0], ())


def test_labels_of_other_names_are_matched_by_number_and_said(model, task, folder, teacher_of):
    teacher = teacher_of(folder, labels=("bad", "good"))
    order, doubts = matched(model, teacher, task)
    assert order == [0, 1] and doubts[0].startswith("teacher: the model calls its classes bad, good")


def test_labels_that_match_nothing_are_named(model, task, folder, teacher_of):
    """Heads of three outputs, a task of two classes: what of the third?"""
    a = model.architecture
    wide = model.replace(
        architecture=replace(a, labels=("no", "yes", "maybe")),
        params={
            **model.params,
            "head": {n: np.repeat(leaf, 2, -1)[..., :3] for n, leaf in model.params["head"].items()},
        },
    )
    teacher = teacher_of(folder, labels=("no", "yes", "other"))
    with pytest.raises(
        SettingsError, match="label 2 of the teacher is other, of the model maybe, and the task's classes"
    ):
        taught(wide, teacher, task)
    three = teacher.replace(architecture=replace(teacher.architecture, labels=("maybe", "no", "yes")))
    assert matched(wide, three, task) == ([1, 2, 0], ())
    with pytest.raises(SettingsError, match=r"the teacher's head \(single_label, 3 labels: maybe, no, yes\)"):
        taught(model, three, task)


def test_a_teacher_with_token_types_sees_them_though_its_student_has_none(task, folder, teacher_of, tmp_path):
    """DistilBERT has no token types, BERT has two: what teaches of pairs must know which text is which."""
    pairs = replace(task, train=tuple(each._replace(pair="the plot was dull") for each in task.train))
    pairs = replace(pairs, validation=pairs.train[:4])
    names = {"0": "no", "1": "yes"}
    settings = tiny.config("distilbert", id2label=names, vocab_size=28)
    made = tiny.write(tmp_path / "student", settings, tiny.tensors(settings))
    shutil.copy(folder / "tokenizer.json", made)
    student, teacher = jp.load(made), teacher_of(folder)
    assert (student.architecture.token_types, teacher.architecture.token_types) == (0, 2)
    assert first_loss(taught(student, teacher, pairs)) == pytest.approx(gap(student, teacher, pairs), rel=1e-4)


def test_numbers_that_one_of_the_two_has_for_names_are_not_put_in_order_by_chance(model, task, folder, teacher_of):
    """The model's outputs 1 and 2 are found by name, of the classes 1 and 2 that occur; the teacher's by number."""
    teacher = teacher_of(folder, labels=("a", "b"))
    ones = tuple(row._replace(label=1) for row in task.train)
    numbered = replace(task, labels=("0", "1"), classes_from="numbers", train=ones, validation=ones, others={})
    plain = model.replace(architecture=replace(model.architecture, labels=("1", "2")))
    with pytest.raises(SettingsError, match="and the task's classes match neither"):
        taught(plain, teacher, numbered)
