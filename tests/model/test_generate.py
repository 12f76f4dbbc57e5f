"""Generation: the cache changes nothing, rows do not see each other, draws follow the settings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune.errors import DataError, SettingsError
from jaxprune.model.generate import Sampling, candidates, continue_rows, draw, generate_ids
from jaxprune.model.model import Batch
from jaxprune.model.transformer import whole_forward
from jaxprune.prune.cut import cut
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


def by_whole_passes(model, prompt, new):
    """Greedy tokens, each from a whole forward pass over what was said so far, padded to one shape."""
    a, said, length = model.architecture, list(map(int, prompt)), len(prompt) + new
    for _ in range(new):
        ids = np.zeros((1, length), np.int32)
        ids[0, : len(said)] = said
        real = (np.arange(length) < len(said)).astype(np.int32)[None]
        place = np.zeros((1, 1), np.int32)
        batch = Batch(ids, real, np.arange(length, dtype=np.int32)[None], 0 * ids, place, place)  # type: ignore[arg-type]
        logits = whole_forward(model.params, jax.tree.map(jnp.asarray, batch), architecture=a)
        said.append(int(jnp.argmax(logits[0, len(said) - 1])))
    return said[len(prompt) :]


@pytest.mark.parametrize("pruned", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_cache_and_the_companions_change_nothing(family, pruned):
    model = uneven(model_of(family)) if pruned else model_of(family)
    found = generate_ids(model, PROMPTS, max_new_tokens=6, end_ids=())
    assert found.lengths.tolist() == [6, 6, 6]
    for prompt, row in zip(PROMPTS, found.ids, strict=True):
        assert row.tolist() == by_whole_passes(model, prompt, 6)


def test_norms_after_and_projected_embeddings():
    model = model_of("opt", do_layer_norm_before=False, word_embed_proj_dim=8)
    assert generate_ids(model, PROMPTS[:1], max_new_tokens=5, end_ids=()).ids[0].tolist() == by_whole_passes(
        model, PROMPTS[0], 5
    )


def test_a_row_stops_at_its_end():
    model = model_of("llama")
    free = generate_ids(model, PROMPTS, max_new_tokens=8, end_ids=())
    end = int(free.ids[0, 3])
    ended = generate_ids(model, PROMPTS, max_new_tokens=8, end_ids=(end,))
    for row, ours in enumerate(ended.ids):
        first = np.flatnonzero(free.ids[row] == end)
        length = first[0] + 1 if len(first) else 8
        assert ended.lengths[row] == length
        assert ours[:length].tolist() == free.ids[row, :length].tolist() and not ours[length:].any()


def test_a_second_call_of_a_shape_compiles_nothing():
    model = model_of("llama")
    generate_ids(model, PROMPTS, max_new_tokens=4)
    size = continue_rows._cache_size()  # type: ignore[attr-defined]
    generate_ids(model, [prompt + 1 for prompt in PROMPTS], max_new_tokens=4, seed=3)
    assert continue_rows._cache_size() == size  # type: ignore[attr-defined]


def test_draws_follow_the_settings():
    logits = jnp.log(jnp.array([[0.5, 0.3, 0.15, 0.05]]))
    kept = lambda **settings: np.isfinite(candidates(logits, Sampling(temperature=1.0, **settings)))[0].tolist()  # noqa: E731
    assert kept(top_k=2) == [True, True, False, False]
    assert kept(top_p=0.5) == [True, False, False, False]
    assert kept(top_p=0.51) == kept(top_p=0.8) == [True, True, False, False]
    assert kept(top_k=3, top_p=0.9) == [True, True, True, False]  # of the three left: .53, .32, .16
    assert kept(top_p=1.0, top_k=9) == [True] * 4
    many = jnp.broadcast_to(logits, (4000, 4))
    drawn = np.bincount(draw(many, jax.random.key(0), Sampling(temperature=1.0)), minlength=4) / 4000
    np.testing.assert_allclose(drawn, [0.5, 0.3, 0.15, 0.05], atol=0.03)  # four standard errors
    assert not draw(many, jax.random.key(0), Sampling(temperature=0.7, top_k=1)).any()


def test_seeds():
    model, hot = model_of("gpt2"), Sampling(temperature=2.0)
    first, same, other = (
        generate_ids(model, PROMPTS, max_new_tokens=8, sampling=hot, seed=seed).ids.tolist() for seed in (0, 0, 1)
    )
    assert first == same != other


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
        ({"prompts": [[30]]}, DataError, "the model's embedding has 30 rows"),
    ],
)
def test_bad_input_is_one_line(change, error, message):
    sampling = {name: change[name] for name in ("temperature", "top_k", "top_p") if name in change}
    with pytest.raises(error, match=message):
        generate_ids(
            model_of("llama"),
            change.get("prompts", PROMPTS),
            max_new_tokens=change.get("max_new_tokens", 4),
            sampling=Sampling(**sampling),
        )


def test_a_classifier_cannot_speak():
    with pytest.raises(DataError, match="generating needs a causal_lm head, the model has classification"):
        generate_ids(tiny.random_model(tiny.config("bert")), PROMPTS, max_new_tokens=2)
