"""What predictions are, by what their numbers stand for: classes, several classes, a number, an answer's span, states.

For each kind: the loss against targets, the divergence from a teacher's prediction, and factors of the Fisher
information. Losses and divergences are per text, [rows, texts]; slots without a text hold numbers of no meaning.

A divergence is T²·KL(teacher ‖ student) at temperature T; the factor T² keeps the gradient's size whatever T is
(Hinton, Vinyals, Dean 2015). Of a number it is that of two Gaussians of unit variance.

Fisher factors are cotangents c_k at the logits with Σ_k c_k c_kᵀ = F, the Hessian at the model's own prediction p of
T²·KL(p ‖ ·): exactly, or in expectation over a label drawn from p.
"""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from .model import Batch

# --- one class of several


def class_loss(
    logits: Float[Array, "... labels"], targets: Int[Array, "..."], batch: Batch, smoothing: float = 0.0
) -> Float[Array, "..."]:
    """Cross entropy, with a share `smoothing` of every target spread over all classes."""
    classes = jax.nn.one_hot(targets, logits.shape[-1])
    return optax.losses.softmax_cross_entropy(logits, optax.losses.smooth_labels(classes, smoothing))


def class_divergence(
    student: Float[Array, "... labels"], teacher: Float[Array, "... labels"], batch: Batch | None, temperature: float
) -> Float[Array, "..."]:
    p, q = jax.nn.log_softmax(teacher / temperature), jax.nn.log_softmax(student / temperature)
    return temperature**2 * jnp.sum(jnp.exp(p) * (p - q), axis=-1)


def class_factors(
    logits: Float[Array, "... labels"], batch: Batch, temperature: float, key: Array, exact_up_to: int
) -> Float[Array, "seeds ... labels"]:
    """Few classes: exact, the non-zero eigenvectors of diag(p) - p pᵀ scaled by the roots of their eigenvalues (C - 1
    of them). Many classes: one label sampled from the model, e_y - p.
    """
    labels, scaled = logits.shape[-1], logits / temperature
    p = jax.nn.softmax(scaled, axis=-1)
    if labels == 1:
        return jnp.zeros((1, *logits.shape))
    if labels <= exact_up_to:
        fisher = p[..., None] * jnp.eye(labels) - p[..., :, None] * p[..., None, :]
        values, vectors = jnp.linalg.eigh(fisher)  # ascending; the first value is 0, for the all-ones direction
        roots = vectors[..., 1:] * jnp.sqrt(jnp.maximum(values[..., None, 1:], 0))
        return jnp.moveaxis(roots, -1, 0)
    sampled = jax.random.categorical(key, scaled, axis=-1)
    return (jax.nn.one_hot(sampled, labels) - p)[None]


# --- several classes at once


def several_loss(
    logits: Float[Array, "rows texts labels"], targets: Float[Array, "rows texts labels"], batch: Batch, _: float = 0.0
) -> Float[Array, "rows texts"]:
    """Binary cross entropy, the mean over the labels."""
    return jnp.mean(optax.losses.sigmoid_binary_cross_entropy(logits, targets), axis=-1)


def several_divergence(
    student: Float[Array, "rows texts labels"],
    teacher: Float[Array, "rows texts labels"],
    batch: Batch,
    temperature: float,
) -> Float[Array, "rows texts"]:
    """The sum over the labels."""
    student, teacher = student / temperature, teacher / temperature
    p, cross = jax.nn.sigmoid(teacher), optax.losses.sigmoid_binary_cross_entropy
    return temperature**2 * jnp.sum(cross(student, p) - cross(teacher, p), axis=-1)


def several_factors(
    logits: Float[Array, "rows texts labels"], batch: Batch, temperature: float, key: Array, exact_up_to: int
) -> Float[Array, "labels rows texts labels"]:
    p = jax.nn.sigmoid(logits / temperature)
    return jnp.sqrt(p * (1 - p)) * jnp.eye(logits.shape[-1])[:, None, None]


# --- a number


def number_loss(
    logits: Float[Array, "rows texts 1"], targets: Float[Array, "rows texts"], batch: Batch, _: float = 0.0
) -> Float[Array, "rows texts"]:
    """The squared error."""
    return (logits[..., 0] - targets) ** 2


def number_divergence(
    student: Float[Array, "rows texts 1"], teacher: Float[Array, "rows texts 1"], batch: Batch, temperature: float
) -> Float[Array, "rows texts"]:
    """Half the squared difference, whatever the temperature."""
    return (student[..., 0] - teacher[..., 0]) ** 2 / 2


def number_factors(
    logits: Float[Array, "rows texts 1"], batch: Batch, temperature: float, key: Array, exact_up_to: int
) -> Float[Array, "1 rows texts 1"]:
    return jnp.ones((1, *logits.shape))  # F = 1


# --- an answer's span: start and end are two softmaxes over a text's own tokens


def own_tokens(batch: Batch) -> Bool[Array, "rows texts length"]:
    """True where a token belongs to a text."""
    segment = jnp.take_along_axis(batch.segments, batch.pool, axis=1)  # [rows, texts]
    return batch.segments[:, None, :] == segment[..., None]


def span_loss(
    logits: Float[Array, "rows length 2"], targets: Int[Array, "rows texts 2"], batch: Batch, _: float = 0.0
) -> Float[Array, "rows texts"]:
    """The mean cross entropy of a span's start and of its end.

    `targets` are token positions within the text, counted from 0; a position the text does not have costs nothing.
    """
    own = own_tokens(batch)
    losses = []
    for side in range(2):
        scores = jnp.where(own, logits[:, None, :, side], -jnp.inf)
        at = own & (batch.positions[:, None, :] == targets[..., side, None])
        # where(): log_softmax is -inf outside the text, and 0 * -inf would be NaN.
        losses.append(-jnp.sum(jnp.where(at, jax.nn.log_softmax(scores), 0.0), axis=-1))
    return (losses[0] + losses[1]) / 2


def span_divergence(
    student: Float[Array, "rows length 2"], teacher: Float[Array, "rows length 2"], batch: Batch, temperature: float
) -> Float[Array, "rows texts"]:
    """The mean of start and end."""
    own = own_tokens(batch)[..., None]
    student, teacher = (jnp.where(own, x[:, None] / temperature, -jnp.inf) for x in (student, teacher))
    p, q = jax.nn.log_softmax(teacher, axis=2), jax.nn.log_softmax(student, axis=2)
    terms = jnp.where(own, jnp.exp(p) * (jnp.where(own, p, 0.0) - jnp.where(own, q, 0.0)), 0.0)
    return temperature**2 * jnp.sum(terms, axis=(2, 3)) / 2


def span_probabilities(
    logits: Float[Array, "rows length 2"], batch: Batch, temperature: float = 1.0
) -> Float[Array, "rows length 2"]:
    """Start and end probabilities: a softmax over the tokens of each text (padding 0)."""
    same = (batch.segments[:, :, None] == batch.segments[:, None, :]) & batch.real[:, None, :]  # [rows, query, key]
    scaled = logits / temperature
    spread = jnp.where(same[..., None], scaled[:, None], -jnp.inf)
    total = jax.nn.logsumexp(jnp.where(batch.real[:, :, None, None], spread, 0.0), axis=2)
    return jnp.where(batch.real[..., None], jnp.exp(scaled - total), 0.0)


def span_factors(
    logits: Float[Array, "rows length 2"], batch: Batch, temperature: float, key: Array, exact_up_to: int
) -> Float[Array, "2 rows length 2"]:
    """One start and one end sampled per text."""
    p = span_probabilities(logits, batch, temperature)
    # Gumbel trick within every text: the token that holds its text's maximum is the sample.
    noisy = logits / temperature + jax.random.gumbel(key, logits.shape)
    same = (batch.segments[:, :, None] == batch.segments[:, None, :]) & batch.real[:, None, :]
    best = jnp.max(jnp.where(same[..., None], noisy[:, None], -jnp.inf), axis=2)
    drawn = ((noisy >= best) & batch.real[..., None]).astype(jnp.float32)
    return (drawn - p)[None] * jnp.eye(2)[:, None, None, :]


# --- one class of several for each token: the mean over a text's tokens


def token_mean(values: Array, there: Array, batch: Batch) -> Float[Array, "rows texts"]:
    """The mean over those of a text's tokens that are `there`, both [rows, length]; 0 where none is."""
    own = (own_tokens(batch) & (batch.real & there)[:, None, :]).astype(values.dtype)
    return jnp.einsum("rst,rt->rs", own, values, precision="highest") / jnp.maximum(jnp.sum(own, axis=-1), 1)


def of_tokens(targets: Int[Array, "rows texts _"], batch: Batch) -> Int[Array, "rows length"]:
    """One number for each token of a row, from one for each token of its texts."""
    text = jnp.maximum(batch.segments - 1, 0)
    return jax.vmap(lambda goals, text, position: goals[text, position])(targets, text, batch.positions)


def tag_loss(
    logits: Float[Array, "rows length labels"],
    targets: Int[Array, "rows texts _"],
    batch: Batch,
    smoothing: float = 0.0,
) -> Float[Array, "rows texts"]:
    """Cross entropy of the tokens that have a class; `targets`, one a token of a text, are below 0 at the others."""
    goal = of_tokens(targets, batch)
    return token_mean(class_loss(logits, jnp.maximum(goal, 0), batch, smoothing), goal >= 0, batch)


def tag_divergence(student: Array, teacher: Array, batch: Batch, temperature: float) -> Float[Array, "rows texts"]:
    """Of the classes of every token, whether a word begins there or not."""
    return token_mean(class_divergence(student, teacher, batch, temperature), batch.real, batch)


# --- an embedding: its direction is what similarities read, its length is not


def unit(vectors: Float[Array, "... dimensions"]) -> Float[Array, "... dimensions"]:
    """Vectors of length 1 (0 for those of none), as torch's `normalize` makes them; the gradient is finite."""
    squared = jnp.sum(vectors**2, axis=-1, keepdims=True)
    there = squared > 0
    length = jnp.sqrt(jnp.where(there, squared, 1.0))
    return jnp.where(there, vectors / jnp.maximum(length, 1e-12), 0.0)


def direction_divergence(
    student: Float[Array, "rows texts dimensions"],
    teacher: Float[Array, "rows texts dimensions"],
    batch: Batch | None,
    temperature: float,
) -> Float[Array, "rows texts"]:
    """One minus the cosine, which is half the squared distance of the two on the unit sphere."""
    return jnp.sum((unit(student) - unit(teacher)) ** 2, axis=-1) / 2


def direction_factors(
    logits: Float[Array, "rows texts dimensions"], batch: Batch, temperature: float, key: Array, exact_up_to: int
) -> Float[Array, "1 rows texts dimensions"]:
    """A random direction on the unit sphere, pulled back to the vector: F = Jᵀ J, J the derivative of its direction."""
    drawn = jax.random.normal(key, (1, *logits.shape))
    _, pull = jax.vjp(unit, logits)
    return jax.vmap(lambda seed: pull(seed)[0])(drawn)


# --- hidden states, of a model without a head


def state_factors(
    logits: Float[Array, "rows length hidden"], batch: Batch, temperature: float, key: Array, exact_up_to: int
) -> Float[Array, "1 rows length hidden"]:
    return jax.random.normal(key, (1, *logits.shape))  # squared change of the hidden states: F = 1
