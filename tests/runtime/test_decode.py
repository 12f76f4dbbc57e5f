"""Generation: the cache changes nothing, rows do not see each other, draws follow the settings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune.errors import DataError, NumericalError, SettingsError
from jaxprune.model.model import Batch
from jaxprune.model.transformer import whole_forward
from jaxprune.pruning.cut import cut
from jaxprune.runtime.decode import generate_ids
from jaxprune.runtime.sampling import candidates, draw
from tests.helpers import tiny

FAMILIES = ("opt", "gpt2", "llama", "mistral", "qwen2", "qwen3")
PROMPTS = [np.array([5, 9, 3]), np.array([7]), np.array([11, 4, 8, 6, 2])]


def model_of(family: str, **changes) -> jp.Model:
    if family in ("llama", "mistral", "qwen2", "qwen3"):
        changes = {"num_attention_heads": 6, "hidden_size": 24, **changes}
    return tiny.random_model(tiny.config(family, **changes))


def uneven(model: jp.Model) -> jp.Model:
    """One layer without heads, one without neurons."""
    masks = [np.array(mask, bool) for mask in ([1, 0, 1], [0] * 10, [0, 0, 0], [1] * 4 + [0] * 6)]
    small = cut(model, masks)
    return small.replace(params=jax.tree.map(jnp.asarray, small.params))


def by_whole_passes(model, new):
    """Greedy tokens after every prompt, each from a whole forward pass over what was said so far, of one shape."""
    rows = np.arange(len(PROMPTS))
    lengths = np.array([len(prompt) for prompt in PROMPTS])
    ids = np.zeros((len(PROMPTS), lengths.max() + new), np.int32)
    for row, prompt in enumerate(PROMPTS):
        ids[row, : len(prompt)] = prompt
    slots = np.broadcast_to(np.arange(ids.shape[1], dtype=np.int32), ids.shape)
    place, said = np.zeros((len(PROMPTS), 1), np.int32), []
    for step in range(new):
        real = (slots < (lengths + step)[:, None]).astype(np.int32)
        batch = jax.tree.map(jnp.asarray, Batch(ids, real, slots, 0 * ids, place, place))  # type: ignore[arg-type]
        logits = np.asarray(whole_forward(model.params, batch, architecture=model.architecture))
        said.append(logits[rows, lengths + step - 1].argmax(-1))
        ids[rows, lengths + step] = said[-1]
    return np.stack(said, axis=1).tolist()


@pytest.mark.parametrize("pruned", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_cached_keys_and_values_change_nothing(family, pruned):
    model = uneven(model_of(family)) if pruned else model_of(family)
    found = generate_ids(model, PROMPTS, max_new_tokens=6, end_ids=())
    assert found.lengths.tolist() == [6, 6, 6] and not found.ended.any()
    assert found.ids.tolist() == by_whole_passes(model, 6)


@pytest.mark.parametrize("first", [0, 1])
def test_windows_reach_as_far_in_the_cache(first):
    late = {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": first}
    model = model_of("qwen2", **late)
    said = generate_ids(model, PROMPTS, max_new_tokens=6, end_ids=()).ids.tolist()
    assert said == by_whole_passes(model, 6) and said != by_whole_passes(model_of("qwen2"), 6)


@pytest.mark.parametrize("family", ["opt", "llama"])
def test_companions_and_padding_change_nothing(family):
    model = model_of(family)
    together = generate_ids(model, [*PROMPTS, np.arange(12) + 3], max_new_tokens=6, end_ids=()).ids.tolist()
    for prompt, row in zip(PROMPTS, together, strict=False):
        assert generate_ids(model, [prompt], max_new_tokens=6, end_ids=()).ids.tolist() == [row]


def test_norms_after_and_projected_embeddings():
    model = model_of("opt", do_layer_norm_before=False, word_embed_proj_dim=8)
    assert generate_ids(model, PROMPTS, max_new_tokens=5, end_ids=()).ids.tolist() == by_whole_passes(model, 5)


def test_a_row_stops_at_its_end():
    model = model_of("llama")
    free = generate_ids(model, PROMPTS, max_new_tokens=8, end_ids=())
    end = int(free.ids[0, 3])
    ended = generate_ids(model, PROMPTS, max_new_tokens=8, end_ids=(end,))
    for row, ours in enumerate(ended.ids):
        first = np.flatnonzero(free.ids[row] == end)
        length = first[0] + 1 if len(first) else 8
        assert ended.lengths[row] == length and ended.ended[row] == bool(len(first))
        assert ours[:length].tolist() == free.ids[row, :length].tolist() and not ours[length:].any()


def test_padding_of_an_array_is_dropped_wherever_it_is():
    model, length = model_of("opt"), 7
    expected = generate_ids(model, PROMPTS, max_new_tokens=4, end_ids=()).ids.tolist()
    for side in ("left", "right", "both"):
        ids, mask = np.full((3, length), 29), np.zeros((3, length), int)
        for row, prompt in enumerate(PROMPTS):
            first = {"left": length - len(prompt), "right": 0, "both": 1}[side]
            ids[row, first : first + len(prompt)], mask[row, first : first + len(prompt)] = prompt, 1
        assert generate_ids(model, ids, mask, max_new_tokens=4, end_ids=()).ids.tolist() == expected


def test_programs_are_shared_by_settings_and_prompts_of_about_one_length(compilations):
    model = model_of("llama")
    generate_ids(model, PROMPTS, max_new_tokens=4, temperature=1.0, top_p=0.9)
    with compilations() as seen:
        longer = [np.append(prompt + 1, 3) for prompt in PROMPTS]
        generate_ids(model, longer, max_new_tokens=7, temperature=0.5, top_p=0.7, seed=3)
    assert len(seen) == 0


def test_batches_do_not_change_what_rows_say():
    model = model_of("gpt2")
    whole, parts = (
        generate_ids(model, [*PROMPTS, *PROMPTS], max_new_tokens=6, temperature=1.5, batch=batch).ids.tolist()
        for batch in (None, 4)
    )
    assert whole == parts and whole[:3] != whole[3:]  # equal prompts draw differently


def test_draws_follow_the_settings():
    logits = jnp.log(jnp.array([[0.05, 0.5, 0.15, 0.3]]))

    def kept(top_k=None, top_p=None):
        tokens, best = candidates(logits, top_k, top_p)
        return tokens[0][np.isfinite(best[0])].tolist()

    assert kept(top_k=2) == [1, 3]
    assert kept(top_p=0.5) == kept(top_p=1e-6) == [1]
    assert kept(top_p=0.51) == kept(top_p=0.79) == [1, 3]
    assert kept(top_k=3, top_p=0.9) == [1, 3, 2]  # of the three left: .53, .32, .16
    assert kept(top_k=9) == [1, 3, 2, 0]
    assert candidates(jnp.zeros((1, 4)), 2, None)[0].tolist() == [[0, 1]]  # of equal ones the first

    many, keys = jnp.broadcast_to(logits, (4000, 4)), jax.random.split(jax.random.key(0), 4000)
    expected = {
        (1.0, None, None): [0.05, 0.5, 0.15, 0.3],
        (0.5, None, None): np.array([0.0025, 0.25, 0.0225, 0.09]) / 0.365,
        (1.0, None, 0.9): np.array([0, 0.5, 0.15, 0.3]) / 0.95,
        (1.0, 2, None): np.array([0, 0.5, 0, 0.3]) / 0.8,
    }
    for (temperature, top_k, top_p), shares in expected.items():
        drawn = np.bincount(draw(many, keys, temperature, top_k, top_p), minlength=4) / 4000
        np.testing.assert_allclose(drawn, shares, atol=0.032)  # four standard errors
    for nearly_greedy in ((1e-30, None, None), (1e-30, None, 0.9), (0.7, 1, None)):
        assert (draw(many, keys, *nearly_greedy) == 1).all()


def test_seeds_and_the_one_best():
    model = model_of("gpt2")
    speak = lambda **settings: generate_ids(model, PROMPTS, max_new_tokens=8, end_ids=(), **settings).ids.tolist()  # noqa: E731
    first, same, other = (speak(temperature=2.0, seed=seed) for seed in (0, 0, 1))
    assert first == same != other
    assert speak(temperature=2.0, top_k=1) == speak()


def test_bfloat16_goes_the_same_way_at_first():
    """The first tokens' logits differ by a percent or so; and the program casts as a forward pass does."""
    model = model_of("gpt2")
    half = generate_ids(model, PROMPTS, max_new_tokens=1, end_ids=(), dtype="bfloat16").ids[:, 0]
    for prompt, token in zip(PROMPTS, half, strict=True):
        logits = jp.logits(model, prompt[None], dtype=jnp.bfloat16)[0, -1]
        assert logits[token] >= logits.max() - 0.05 * jnp.std(logits)


def test_numbers_that_are_none_are_an_error():
    model = model_of("llama")
    params = {**model.params, "final_norm": {"scale": model.params["final_norm"]["scale"] * jnp.nan}}
    with pytest.raises(NumericalError, match="NaN or Inf in the logits of prompts 0 to 2, at or before new token 1;"):
        generate_ids(model.replace(params=params), PROMPTS, max_new_tokens=4)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"temperature": -1.0}, SettingsError, "temperature must be a number of at least 0"),
        ({"top_k": 0}, SettingsError, "top_k must be at least 1"),
        ({"top_p": 0.0}, SettingsError, r"top_p must lie in \(0, 1\]"),
        ({"max_new_tokens": 0}, SettingsError, "max_new_tokens must be at least 1"),
        ({"max_new_tokens": 16}, DataError, "5 prompt tokens and 16 new ones exceed the model's 20 positions"),
        ({"prompts": []}, DataError, "there are no prompts"),
        ({"prompts": [[3], []]}, DataError, "prompt 1 has no tokens"),
        ({"prompts": [[3], [7, 30]]}, DataError, "prompt 1 has token id 30, the model's embedding has 30 rows"),
        ({"prompts": "the film"}, DataError, "prompts must be lists of token ids"),
        ({"prompts": [[3, 4]], "attention_mask": [[1]]}, DataError, r"shape \(1, 1\), the prompts \(1, 2\)"),
        ({"prompts": [[3, 4]], "attention_mask": [[0, 0]]}, DataError, "prompt 0 has no tokens"),
        ({"top_k": 3}, SettingsError, "top_k has no effect at temperature 0, which draws nothing"),
        ({"batch": 0}, SettingsError, "batch must be at least 1"),
    ],
)
def test_bad_input_is_one_line(change, error, message):
    with pytest.raises(error, match=message):
        generate_ids(model_of("llama"), **{"prompts": PROMPTS, "max_new_tokens": 4, **change})


def test_a_classifier_cannot_speak():
    with pytest.raises(DataError, match="generating needs a causal_lm head, the model has classification"):
        generate_ids(tiny.random_model(tiny.config("bert")), PROMPTS, max_new_tokens=2)
