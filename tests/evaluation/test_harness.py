"""What lm-evaluation-harness is answered, without the package: probabilities are those of a model known by hand."""

import json
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune.errors import DataError, NumericalError, SettingsError
from jaxprune.evaluation.harness import HarnessModel, HarnessSettings
from jaxprune.model.model import Batch
from jaxprune.runtime.decode import generate_ids
from jaxprune.runtime.memory import temp_bytes
from jaxprune.runtime.token_scores import Asked, whole_scores
from tests.helpers import tiny
from tests.helpers.bigrams import bigram_model, log_probability
from tests.helpers.decoders import language_model

TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }} {{ message['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}the{% endif %}"
)
CLOSE = 1e-4  # the norm adds 1e-6 to a mean square of 1/12


def asked(*arguments) -> list[SimpleNamespace]:
    return [SimpleNamespace(args=one) for one in arguments]


@pytest.fixture(scope="module")
def bigrams(tmp_path_factory):
    return bigram_model(tmp_path_factory.mktemp("bigrams") / "model", template=TEMPLATE)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A random decoder, and the same cut unevenly."""
    dense = language_model(tmp_path_factory.mktemp("decoder") / "model", "llama")
    calibration = jp.Calibration.of_ids([[5, 6, 7, 8, 9, 10, 11, 12]] * 4, None)
    small = jp.prune(dense, calibration, jp.Budget(remove=0.4, cost="params"), jp.Magnitude())
    assert small.architecture.ragged
    return {"dense": dense, "uneven": small}


def by_logits(model: jp.Model, continuations) -> list[tuple[float, bool]]:
    """From the whole logits of every text, padded to one length."""
    width = max(len(read) for read, _, _ in continuations)
    ids, mask = np.zeros((2, len(continuations), width), np.int32)
    for row, (read, _, _) in enumerate(continuations):
        ids[row, : len(read)], mask[row, : len(read)] = read, 1
    logits = np.asarray(jp.logits(model, ids, mask), np.float64)
    logs, out = logits - np.log(np.exp(logits).sum(-1, keepdims=True)), []
    for row, (read, said, _) in enumerate(continuations):
        mine = logs[row, len(read) - len(said) : len(read)]
        out.append((float(mine[np.arange(len(said)), said].sum()), bool((mine.argmax(-1) == said).all())))
    return out


# --- log probabilities


def test_continuations_have_their_probability_in_the_order_of_the_requests(bigrams):
    pairs = [
        ("the cat", " sat on up"),
        ("the", " dog"),
        ("the", " cat"),
        ("the cat sat on up far home the dog", " ran"),
        ("", "the cat"),
        ("the ", "cat"),
        ("the", " cat"),
    ]
    answers = HarnessModel(bigrams).loglikelihood(asked(*pairs))
    expected = [log_probability(f"{(context or '<s>').split()[-1]} {said}") for context, said in pairs]
    np.testing.assert_allclose([log for log, _ in answers], expected, atol=CLOSE)
    assert [greedy for _, greedy in answers] == [True, False, True, True, True, True, True]
    assert all(isinstance(log, float) and isinstance(greedy, bool) for log, greedy in answers)
    assert HarnessModel(bigrams).loglikelihood([]) == []


def test_unknown_words_are_told_of(bigrams):
    harness = HarnessModel(bigrams)
    harness.loglikelihood(asked(("the", " cat sat on up"), ("the", " zebra")))
    assert len(harness.warnings) == 1 and "1 of 2 continuations have no token but <unk>" in harness.warnings[0]
    assert "such as '<unk>'" in harness.warnings[0]
    whole = HarnessModel(bigrams)
    whole.loglikelihood_rolling(asked(("zebra and gnu",), ("the cat",)))
    assert "60% of the tokens of 2 texts to score are <unk> (1 have no other)" in whole.warnings[0]
    known = HarnessModel(bigrams)
    known.loglikelihood(asked(("the", " cat"), ("a zebra", " dog")))
    assert known.warnings == ()  # of what is read, not said


@pytest.mark.parametrize(
    ("cut", "how"), [("dense", {}), ("uneven", {"batch": 2}), ("uneven", {"stream": True}), ("dense", {"stream": True})]
)
def test_every_model_says_what_its_logits_say(models, cut, how):
    model, random = models[cut], np.random.RandomState(0)
    words = "the a film book plot cast good bad fine dull warm cold long short and but is was very not".split()
    pairs = []
    for length in (1, 2, 5, 12, 50, 3, 7):
        text = random.choice(words, length + 2)
        pairs += [(" ".join(text[:length]), " " + " ".join(text[length:])), (" ".join(text[:length]), " good")]
    harness = HarnessModel(model, HarnessSettings(**how))
    answers = harness.loglikelihood(asked(*pairs))
    expected = by_logits(model, harness._reader.continuations(pairs))
    np.testing.assert_allclose([log for log, _ in answers], [log for log, _ in expected], atol=1e-4)
    assert [greedy for _, greedy in answers] == [greedy for _, greedy in expected]


def test_half_precision_is_asked_for(bigrams):
    whole = HarnessModel(bigrams).loglikelihood(asked(("the", " cat")))[0][0]
    half = HarnessModel(bigrams, HarnessSettings(dtype="bfloat16")).loglikelihood(asked(("the", " cat")))[0][0]
    assert whole != half and abs(whole - half) < 0.05  # eight bits


def test_equal_texts_are_read_once(bigrams):
    read = []
    harness = HarnessModel(bigrams)
    call = harness._programs._call

    def counted(function, *arrays, **static):
        read.append(int(np.sum(np.asarray(arrays[1].batch.index) >= 0)))
        return call(function, *arrays, **static)

    harness._programs._call = counted
    harness.loglikelihood(asked(*[("the cat", f" {word}") for word in ("sat", "ran", "on", "up")], ("the", " cat sat")))
    assert sum(read) == 1  # "the cat" four times, and once more as the beginning of "the cat sat"


def test_what_is_too_long_is_told(bigrams):
    harness = HarnessModel(bigrams, HarnessSettings(max_length=4))
    long, short = "the cat sat on up far home the dog", "the dog"
    (cut, _), (whole, _) = harness.loglikelihood(asked((long, " ran far"), (short, " ran far")))
    assert cut == pytest.approx(whole, abs=CLOSE)
    (warning,) = harness.warnings
    assert "longer than the 4 tokens that are read at once in 1 of 2 requests, and up to 6 tokens" in warning
    harness.generate_until(asked((long, {"max_gen_toks": 2})))
    assert "a prompt and the new tokens are longer" in harness.warnings[1]


def test_whole_texts_have_the_probability_of_all_their_tokens(bigrams):
    texts = ["the cat sat on up", "", "the", "the cat sat on up far home the dog ran far"]
    expected = [log_probability(f"<s> {text}") for text in texts]
    for length in (20, 4, 1):  # however they are cut into windows: a word depends on the last one alone
        answers = HarnessModel(bigrams, HarnessSettings(max_length=length)).loglikelihood_rolling(asked(*zip(texts)))
        np.testing.assert_allclose(answers, expected, atol=1e-4)


def test_no_program_holds_the_logits_of_a_batch():
    model = tiny.random_model(tiny.config("llama", vocab_size=20000))
    rows, length = 8, 128
    zeros = jnp.zeros((rows, length), jnp.int32)
    batch = Batch(zeros, zeros + 1, zeros, zeros, zeros[:, :1], zeros[:, :1])
    places = np.zeros(rows * length, np.int32)
    program = whole_scores.lower(model.params, Asked(batch, places, places), architecture=model.architecture).compile()
    assert temp_bytes(program) < rows * length * 20000 * 4 / 3  # a slice is a quarter


def test_numbers_that_are_none_are_named(bigrams):
    broken = bigrams.replace(params=jax.tree.map(lambda leaf: leaf * jnp.nan, bigrams.params))
    with pytest.raises(NumericalError, match="NaN or Inf in the logits of request 0"):
        HarnessModel(broken).loglikelihood(asked(("the", " cat")))


# --- texts that go on


def test_texts_go_on_until_a_string_comes(bigrams):
    harness = HarnessModel(bigrams)
    until = {"until": ["on"], "max_gen_toks": 8}
    requests = asked(("the", until), ("the dog", {"max_gen_toks": 2}), ("the dog", {}), ("the cat", until))
    # the cat sat on up …; the dog ran far </s>
    assert harness.generate_until(requests[:2] + requests[3:]) == ["cat sat ", "ran far", "sat "]
    assert HarnessModel(bigrams, HarnessSettings(max_gen_toks=9)).generate_until(requests[2:3]) == ["ran far"]


@pytest.mark.parametrize(("cut", "how"), [("dense", {}), ("uneven", {"batch": 2}), ("uneven", {"stream": True})])
def test_texts_are_those_of_the_most_likely_tokens(models, cut, how):
    model, harness = models[cut], HarnessModel(models[cut], HarnessSettings(**how))
    prompts = ["the film", "the book was very", "a", "not good but"]
    free = {"max_gen_toks": 24}  # more than are written before strings are looked for
    texts = harness.generate_until(asked(*[(prompt, free) for prompt in prompts]))
    ids = harness._reader.encode(prompts, begins=None)
    ours = generate_ids(model, ids, max_new_tokens=24, end_ids=harness_ends(harness))
    whole = [harness._reader.text(row[:count].tolist()) for row, count in zip(ours.ids, ours.lengths, strict=True)]
    assert texts == whole
    # A string that comes late, in more than one step, and in some rows only.
    words = whole[0].split()
    stop = next(word for place, word in enumerate(words) if place > 2 and word not in words[:place])
    stopped = harness.generate_until(asked(*[(prompt, {**free, "until": stop}) for prompt in prompts]))
    assert stopped == [text.split(stop)[0] for text in whole] and stopped[0] != whole[0]


def harness_ends(harness: HarnessModel) -> tuple[int, ...]:
    eos = harness.eot_token_id
    return (*harness._model.architecture.end_ids, *([] if eos is None else [eos]))


def test_what_is_drawn_goes_by_the_seed(bigrams):
    drawn = asked(*[("far", {"do_sample": True, "temperature": 1.0, "max_gen_toks": 6})] * 4)
    first, again = (HarnessModel(bigrams).generate_until(drawn) for _ in range(2))
    other = HarnessModel(bigrams, HarnessSettings(seed=1)).generate_until(drawn)
    assert first == again != other and len({*first}) > 1  # a request that is repeated is drawn anew
    best = asked(("the", {"temperature": 0.7, "top_k": 1, "max_gen_toks": 3}))
    assert HarnessModel(bigrams).generate_until(best) == ["cat sat on"]
    cold = asked(("the", {"do_sample": False, "temperature": 0.7, "top_p": 0.9, "max_gen_toks": 3}))
    assert HarnessModel(bigrams).generate_until(cold) == ["cat sat on"]


def test_what_generation_config_asks_for_beyond_is_told(bigrams, tmp_path):
    bigram_model(tmp_path / "model")
    (tmp_path / "model" / "generation_config.json").write_text(
        '{"eos_token_id": 2, "repetition_penalty": 1.3, "min_p": 0.2, "top_k": 3}'
    )
    harness = HarnessModel(jp.load(tmp_path / "model"))
    harness.generate_until(asked(("the", {"max_gen_toks": 2})))
    (warning,) = harness.warnings
    assert "asks for repetition_penalty 1.3: the package" in warning  # and not for min_p: nothing is drawn
    harness.generate_until(asked(("the", {"max_gen_toks": 2, "temperature": 0.5})))
    assert "repetition_penalty 1.3, min_p 0.2" in harness.warnings[1]
    (tmp_path / "model" / "generation_config.json").unlink()
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps({**config, "repetition_penalty": 1.3}))
    harness = HarnessModel(jp.load(tmp_path / "model"))
    harness.generate_until(asked(("the", {"max_gen_toks": 2})))
    assert harness.warnings[0].startswith("config.json asks for repetition_penalty 1.3: the package")


# --- chat, and what the package asks beside


def test_chats_are_written_by_the_template(bigrams):
    harness, said = HarnessModel(bigrams), [{"role": "user", "content": "dog"}]
    assert harness.apply_chat_template(said) == "user dog the"
    assert harness.apply_chat_template(said, add_generation_prompt=False).strip() == "user dog"
    assert harness.chat_template(True) == TEMPLATE and harness.chat_template(False) is None
    other = HarnessModel(
        bigrams, HarnessSettings(chat_template_args={"chat_template": "{{ messages[0]['content'] }}!"})
    )
    assert other.apply_chat_template(said) == "dog!"
    # Prompts are kept by this name: of another template there are others.
    assert harness.tokenizer_name != other.tokenizer_name and "/" not in harness.tokenizer_name
    refusing = (
        "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('none') }}{% endif %}"
        "{{ m['content'] }}{% endfor %}"
    )
    strict = HarnessModel(bigrams, HarnessSettings(chat_template_args={"chat_template": refusing}))
    assert strict.apply_chat_template([{"role": "system", "content": "up"}, *said]) == "dog"
    (warning,) = strict.warnings
    assert warning.startswith("the chat template takes no system messages, and they are left out")
    assert strict.apply_chat_template(said) == "dog" and harness.warnings == ()


def test_answers_are_kept_as_they_come(bigrams):
    harness, kept, heard = HarnessModel(bigrams, on_step=lambda event: heard.append(event)), {}, []
    harness.cache_hook = SimpleNamespace(
        add_partial=lambda kind, request, answer: kept.update({(kind, str(request)): answer})
    )
    answers = harness.loglikelihood(asked(("the", " cat"), ("the", " dog")))
    totals = harness.loglikelihood_rolling(asked(("the cat",)))
    texts = harness.generate_until(asked(("the", {"max_gen_toks": 2})))
    assert kept == {
        ("loglikelihood", "('the', ' cat')"): answers[0],
        ("loglikelihood", "('the', ' dog')"): answers[1],
        ("loglikelihood_rolling", "('the cat',)"): totals[0],
        ("generate_until", "('the', {'max_gen_toks': 2})"): texts[0],
    }
    assert heard[:2] == [{"phase": "loglikelihood", "done": done, "of": 2} for done in (1, 2)]
    info = harness.get_model_info()
    assert info["model_num_parameters"] > 0 and info["compute_dtype"] == "float32"


# --- what cannot be


def test_models_and_settings_that_do_not_do(bigrams, tmp_path):
    none = tiny.random_model(tiny.config("llama", head="none"))
    with pytest.raises(DataError, match='lm_eval needs a causal_lm head, the model has "none"'):
        HarnessModel(none)
    wrong: tuple[tuple[dict[str, Any], str], ...] = (
        ({"max_length": 21}, "max_length 21 is more than the model's 20 positions"),
        ({"max_length": 0}, "max_length must be at least 1, got 0"),
        ({"batch": 0}, "batch must be at least 1"),
        ({"max_gen_toks": 0}, "max_gen_toks must be at least 1"),
        ({"stream": True, "dtype": "bfloat16"}, "streamed weights compute in float32"),
        ({"seed": -1}, "seed is -1"),
    )
    for given, message in wrong:
        with pytest.raises(SettingsError, match=message):
            HarnessModel(bigrams, HarnessSettings(**given))
    with pytest.raises(DataError, match="the chat template 'tools' is asked for by name"):
        HarnessModel(bigrams).chat_template("tools")
    plain = bigram_model(tmp_path / "plain")
    with pytest.raises(DataError, match="the tokenizer has no chat template"):
        HarnessModel(plain).apply_chat_template([{"role": "user", "content": "dog"}])


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"num_beams": 4}, "has num_beams 4, which is not done here"),
        ({"presence_penalty": 1}, "has presence_penalty 1, which is not done here"),
        ({"temperature": 1.0, "min_p": 0.1}, "has min_p 0.1, which is not done here"),
        ({"do_sample": True}, "has do_sample without a temperature"),
        ({"until": 3}, "has until=3, expected a string or several"),
        ({"max_gen_toks": 0}, "asks for 0 new tokens"),
        ({"max_gen_toks": 3.7}, "asks for 3.7 new tokens; ask for at least 1, and for a whole number"),
        ({"max_gen_toks": float("nan")}, "asks for nan new tokens"),
        ({"temperature": -1.0}, "has temperature=-1.0, expected 0"),
        ({"temperature": float("nan"), "do_sample": True}, "has temperature=nan, expected 0"),
        ({"max_gen_toks": "many"}, "has a count or a temperature that is no number"),
        ({"max_gen_toks": 20}, "20 new tokens leave no room for a prompt among the 20"),
        (["the"], "expected settings by name"),
    ],
)
def test_generation_that_is_not_done_is_named(bigrams, kwargs, message):
    good = ("the", {"max_gen_toks": 2, "num_beams": 1})
    with pytest.raises(DataError, match=message):
        HarnessModel(bigrams).generate_until(asked(good, ("the", kwargs)))


def test_requests_of_another_kind_are_named(bigrams):
    with pytest.raises(DataError, match="request 1 has an empty prompt"):
        HarnessModel(bigrams).generate_until(asked(("the", {"max_gen_toks": 2}), ("", {"max_gen_toks": 3})))
    with pytest.raises(DataError, match="request 1 has .*, expected 2 texts"):
        HarnessModel(bigrams).loglikelihood(asked(("the", " cat"), ("the", 3)))
    streamed = HarnessModel(bigrams, HarnessSettings(stream=True))
    with pytest.raises(SettingsError, match="streamed weights draw no tokens"):
        streamed.generate_until(asked(("the", {"temperature": 1.0, "max_gen_toks": 2})))
