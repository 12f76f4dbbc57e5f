"""Texts that a tokenizer does not know: named where a part is unknown, refused where nothing else is there."""

import re

import pytest

import jaxprune as jp
from jaxprune.errors import DataError
from jaxprune.finetuning.texts import prepare
from jaxprune.tasks import Calibration, Example, Task
from jaxprune.tokens.language_texts import language_texts
from jaxprune.tokens.tokenizer import Tokenizer
from jaxprune.tokens.unknown import Unknown
from jaxprune.tokens.windows import encoded_for
from tests.helpers.tokenizers import write_bert, write_bpe_json, write_pieces, write_settings

KNOWN, STRANGE = Example("a good film", None, 0), Example("ganz fremde Worte", None, 1)
SAYS = r"50% of the tokens of 2 {} are \[UNK\] \(1 have no other\), .*, such as 'ganz fremde Worte': a model"


def task_of(*examples):
    return Task("made", "single_label", ("negative", "positive"), "accuracy", examples, examples, "here")


def test_scores_predictions_training_and_calibration_say_so(tiny):
    model, task = tiny(), task_of(KNOWN, STRANGE)
    texts = [KNOWN.text, STRANGE.text]
    for warnings, what in (
        (jp.evaluate(model, task).warnings, "evaluation texts"),
        (jp.predict(model, texts).warnings, "texts"),
        (prepare(model, task).warnings, "training texts"),
        (encoded_for(model, Calibration.of_texts(texts))[1], "calibration texts"),
    ):
        (said,) = [entry for entry in warnings if "[UNK]" in entry]
        assert re.match(SAYS.format(what), said), said
    assert not any("[UNK]" in entry for entry in jp.evaluate(model, task_of(KNOWN, KNOWN)).warnings)


def test_texts_without_any_known_word_are_refused_where_a_model_is_scored_or_made(tiny):
    model, task = tiny(), task_of(STRANGE, STRANGE)
    says = r"^all 6 tokens of {} are \[UNK\], .*'ganz fremde Worte'.*; give text whose words"
    with pytest.raises(DataError, match=says.format("evaluation texts")):
        jp.evaluate(model, task)
    with pytest.raises(DataError, match=says.format("training texts")):
        prepare(model, task)
    with pytest.raises(DataError, match=says.format("calibration texts")):
        encoded_for(model, Calibration.of_texts([STRANGE.text] * 2))
    # A service answers; what it is asked is not its choice.
    assert "are [UNK] (2 have no other), which stands for" in jp.predict(model, [STRANGE.text] * 2).warnings[0]


def test_running_text_is_counted_as_it_is_read(tiny, tmp_path):
    for name in ("text.txt", "train.txt"):
        (tmp_path / name).write_text("a good film and ganz fremde words " * 20)
    (tmp_path / "strange.txt").write_text("ganz fremde Worte " * 40)
    model = tiny(causal=True, head="causal_lm", pooler="none", labels=())
    task = jp.tasks.text(tmp_path / "text.txt", train=tmp_path / "train.txt", length=14)
    said = "43% of the tokens of 10 {} are [UNK], which stands for what the tokenizer does not know, such as"
    assert any(entry.startswith(said.format(task.source)) for entry in jp.evaluate(model, task).warnings)
    (warning,) = language_texts(Tokenizer.of(model), task).warnings
    assert warning.startswith(said.format(f"{task.name} from {task.source} (train)"))
    drawn = Calibration.of_running_text(tmp_path / "train.txt", 4, length=14)
    assert any("[UNK]" in entry for entry in encoded_for(model, drawn)[1])
    with pytest.raises(DataError, match=r"^all 112 tokens of .* are \[UNK\]"):
        jp.evaluate(model, jp.tasks.text(tmp_path / "strange.txt", length=14))


def test_contexts_are_counted_by_window(tokenizer_folder):
    windows = Tokenizer.of(tokenizer_folder).windows(["who was"], ["fremde " * 30], max_length=20, overlap=4)
    unknown = windows.encoded.unknown
    assert unknown.texts == len(windows.spans) > 1 and unknown.whole == 0 and 0.7 < unknown.unknown / unknown.tokens < 1
    assert unknown.example.startswith("fremde fremde")


@pytest.mark.parametrize("special", [("<s>", "<unk>"), ("<|endoftext|>",)])
def test_a_tokenizer_that_knows_every_text_has_no_such_token(tmp_path, special):
    """Byte-level tokenizers name one all the same: GPT-2's is the token that ends a text."""
    write_bpe_json(tmp_path, *special)
    write_settings(tmp_path, tokenizer_class="PreTrainedTokenizerFast", unk_token=special[-1])
    assert Tokenizer.of(tmp_path).unknown == (None, "")


def test_the_token_is_that_of_the_files(tmp_path):
    (tmp_path / "bert").mkdir()
    write_bert(tmp_path / "bert")
    assert Tokenizer.of(tmp_path / "bert").unknown == (1, "[UNK]")
    write_pieces(tmp_path, "<s>", "<pad>", "</s>", "<unk>")
    assert Tokenizer.of(tmp_path).unknown == (3, "<unk>")


def test_counts_of_parts_add_up():
    one, other = Unknown("[UNK]", 4, 0, 40, 1, "a", 0.1), Unknown("[UNK]", 4, 0, 40, 20, "b", 0.7)
    both = one + other
    assert (both.texts, both.tokens, both.unknown, both.example) == (8, 80, 21, "b")
    alone = Unknown("[UNK]", 90, 1, 900, 3, "c d e", 1.0).doubts("texts")
    assert alone[0].startswith("1 of 90 texts have no token but [UNK], which stands for") and "'c d e'" in alone[0]
    assert Unknown() + one == one and one.doubts("texts") == () and both.doubts("texts")[0].startswith("26% of")
    assert both.checked("texts") == both.doubts("texts") and Unknown().checked("texts") == ()
