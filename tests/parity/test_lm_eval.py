"""Answers to lm-evaluation-harness against its own class for models of transformers, live; run by `make parity`.

Without the package, log probabilities are compared with a loop on torch.
"""

from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("torch", reason="live parity needs torch: make parity installs it")

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import jaxprune as jp
from jaxprune.evaluation.harness import HarnessModel, HarnessSettings
from tests.evaluation.test_lm_eval import harness, tasks as tasks
from tests.helpers.tokenizers import write_bpe_json, write_settings
from tests.parity.reference import random_reference

pytestmark = pytest.mark.filterwarnings("ignore")  # those of torch, transformers and the package are not ours to fix
ATOL = 1e-4  # sums of up to 60 log probabilities in float32
FAMILIES = [("llama", {}), ("gpt2", {}), ("opt", {}), ("qwen3", {})]


def asked(*arguments) -> list[SimpleNamespace]:
    return [SimpleNamespace(args=one, task_name="test") for one in arguments]


def write_model(folder, family: str, bos: bool) -> None:
    """A random model with a byte-level tokenizer that puts <s> before texts, or does not."""
    key = "n_positions" if family == "gpt2" else "max_position_embeddings"
    changes = {"vocab_size": 265, key: 32, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    reference = random_reference(family, "causal_lm", seed=3, **changes)
    with torch.no_grad():  # logits far enough apart that rounding changes no choice
        reference.get_output_embeddings().weight.mul_(3)
    reference.save_pretrained(folder)
    write_bpe_json(folder, "<s>", "</s>")
    if bos:
        from tokenizers import Tokenizer, processors

        backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
        backend.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
            single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 0)]
        )
        backend.save(str(folder / "tokenizer.json"))
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}
    write_settings(folder, tokenizer_class="PreTrainedTokenizerFast", **names)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = {}

    def make(family: str = "llama", bos: bool = False):
        if (family, bos) not in made:
            made[family, bos] = tmp_path_factory.mktemp(family) / "model"
            made[family, bos].mkdir()
            write_model(made[family, bos], family, bos)
        return made[family, bos]

    return make


PAIRS = [
    ("the film", " the film"),
    ("the film ", "the"),
    ("the", " a"),
    ("the", " b"),
    ("the", " c and more"),
    ("", "the film"),
    ("", "<s>the film"),
    ("<s>the film", " film"),
    ("two\n\n", "  lines"),
    ("a rather long context of many characters", " the end"),
    ("é電", "影"),
]
TEXTS = ["the film", "", "a text of more characters than the model has positions for, so that it is cut", "<s>the"]
PROMPTS = ["the film", "a", "<s>the film was", "a prompt that has more characters than there is room", "xyz the"]


def theirs(folder, **options):
    """lm-evaluation-harness's own class on the same folder, one request at a time."""
    HFLM = pytest.importorskip("lm_eval.models.huggingface", reason="the extra lm-eval is not installed").HFLM
    return HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=1, **options)


@pytest.mark.parametrize("options", [{}, {"add_bos_token": True}, {"add_bos_token": False}, {"max_length": 12}])
@pytest.mark.parametrize("bos", [False, True])
def test_answers_are_those_of_hflm(folder, bos, options):
    where = folder("llama", bos)
    reference, ours = theirs(where, **options), HarnessModel(jp.load(where), HarnessSettings(**options))
    expected, got = reference.loglikelihood(asked(*PAIRS), disable_tqdm=True), ours.loglikelihood(asked(*PAIRS))
    np.testing.assert_allclose([log for log, _ in got], [log for log, _ in expected], atol=ATOL)
    assert [greedy for _, greedy in got] == [greedy for _, greedy in expected]
    texts = asked(*((text,) for text in TEXTS))
    expected = reference.loglikelihood_rolling(texts, disable_tqdm=True)
    np.testing.assert_allclose(ours.loglikelihood_rolling(texts), expected, atol=ATOL)
    for kwargs in (
        {"max_gen_toks": 6},
        {"max_gen_toks": 10, "until": ["e", "th"]},
        {"max_new_tokens": 9, "until": "f"},
    ):
        requests = asked(*((prompt, dict(kwargs)) for prompt in PROMPTS))
        assert ours.generate_until(requests) == reference.generate_until(requests, disable_tqdm=True)


@pytest.mark.parametrize(("family", "changes"), FAMILIES)
def test_every_family_answers_as_hflm(folder, family, changes):
    where = folder(family)
    reference, ours = theirs(where), HarnessModel(jp.load(where))
    expected, got = reference.loglikelihood(asked(*PAIRS), disable_tqdm=True), ours.loglikelihood(asked(*PAIRS))
    np.testing.assert_allclose([log for log, _ in got], [log for log, _ in expected], atol=ATOL)
    assert [greedy for _, greedy in got] == [greedy for _, greedy in expected]
    requests = asked(*((prompt, {"max_gen_toks": 8, "until": ["the"]}) for prompt in PROMPTS))
    assert ours.generate_until(requests) == reference.generate_until(requests, disable_tqdm=True)
    assert (ours.max_length, ours.max_gen_toks) == (reference.max_length, reference.max_gen_toks)
    assert (ours.eot_token_id, ours.prefix_token_id) == (reference.eot_token_id, reference.prefix_token_id)


def test_a_task_of_four_endings_scores_as_with_hflm(folder, tasks):
    where, results = folder("llama"), []
    simple_evaluate, manager = harness(tasks)
    for model in (theirs(where), jp.lm_eval(jp.load(where))):
        run = simple_evaluate(model=model, tasks=["endings", "whole"], task_manager=manager)
        assert run is not None
        results.append(run)
    expected, got = (run["results"] for run in results)
    for name in ("acc,none", "acc_norm,none"):
        assert got["endings"][name] == expected["endings"][name]
    assert got["whole"]["word_perplexity,none"] == pytest.approx(expected["whole"]["word_perplexity,none"], rel=ATOL)
    for one, other in zip(*(run["samples"]["endings"] for run in results), strict=True):
        for ((ours, greedy),), ((log, flag),) in zip(one["resps"], other["resps"], strict=True):
            assert ours == pytest.approx(log, abs=ATOL) and greedy == flag


def test_chats_are_those_of_hflm(folder, real_model):
    where = real_model("smollm2-135m")
    model = jp.load(where)
    ours = HarnessModel(model)
    tokenizer = AutoTokenizer.from_pretrained(where)
    history = [{"role": "user", "content": "Which?"}, {"role": "assistant", "content": "This"}]
    for prompt in (True, False):
        expected = tokenizer.apply_chat_template(
            history, tokenize=False, add_generation_prompt=prompt, continue_final_message=not prompt
        )
        assert ours.apply_chat_template(history, prompt) == expected
    assert ours.chat_template(True) == tokenizer.chat_template


def test_log_probabilities_are_those_of_a_loop_on_torch(folder, tmp_path):
    """Dense, and cut to uneven layers: the latter against the dense model with its units at zero."""
    where = folder("llama")
    dense = jp.load(where)
    for model in (dense, jp.load(where, host=True)):
        reference = AutoModelForCausalLM.from_pretrained(where)
        tokenizer = AutoTokenizer.from_pretrained(where)
        pairs = [("the film", " the film"), ("a", " b and c"), ("a longer one", " the")]
        expected = []
        for context, continuation in pairs:
            ids = tokenizer(context + continuation, return_tensors="pt")["input_ids"]
            said = ids[0, len(tokenizer(context)["input_ids"]) :]
            with torch.no_grad():
                logs = torch.log_softmax(reference(ids).logits[0, -len(said) - 1 : -1], -1)
            expected.append(float(logs.gather(1, said[:, None]).sum()))
        got = HarnessModel(model, HarnessSettings(stream=model is not dense)).loglikelihood(asked(*pairs))
        np.testing.assert_allclose([log for log, _ in got], expected, atol=ATOL)


def silence(reference, small: jp.Model) -> None:
    """Put what a pruned model has not to zero in the dense one on torch."""
    for layer, kept in zip(reference.model.layers, small.report.kept, strict=True):
        attention, width = layer.self_attn, layer.self_attn.head_dim * layer.self_attn.num_key_value_groups
        with torch.no_grad():
            for group in {*range(attention.o_proj.in_features // width)} - {*kept.heads}:
                attention.o_proj.weight[:, group * width : (group + 1) * width] = 0
            for neuron in {*range(layer.mlp.down_proj.in_features)} - {*kept.neurons}:
                layer.mlp.down_proj.weight[:, neuron] = 0


def test_an_uneven_model_answers_as_the_dense_one_without_its_units(folder, tmp_path):
    where = folder("llama")
    dense = jp.load(where)
    calibration = jp.Calibration.of_ids([[2, 3, 4, 5, 6, 7, 8, 9]] * 4, None)
    small = jp.prune(dense, calibration, jp.Budget(remove=0.4, cost="params"), jp.Magnitude())
    assert small.architecture.ragged
    jp.save(small, tmp_path / "small")
    reference = theirs(where)
    silence(reference.model, small)
    ours = HarnessModel(jp.load(tmp_path / "small"))
    expected, got = reference.loglikelihood(asked(*PAIRS), disable_tqdm=True), ours.loglikelihood(asked(*PAIRS))
    np.testing.assert_allclose([log for log, _ in got], [log for log, _ in expected], atol=ATOL)
    texts = asked(*((text,) for text in TEXTS))
    expected = reference.loglikelihood_rolling(texts, disable_tqdm=True)
    np.testing.assert_allclose(ours.loglikelihood_rolling(texts), expected, atol=ATOL)
    requests = asked(*((prompt, {"max_gen_toks": 8}) for prompt in PROMPTS))
    assert ours.generate_until(requests) == reference.generate_until(requests, disable_tqdm=True)
