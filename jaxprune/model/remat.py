"""Layers whose work waits for its turn: that of the backward pass, done again, and copies of weights in other types."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def in_turn(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, of which nothing is done before all its arguments are there.

    A compiler may do what depends on weights alone at the beginning, such as a copy of every weight in the type that is
    computed in, and then holds all of them at once. XLA for CPUs does so: it orders a program breadth first.
    """

    def barred(*given: Any) -> Any:
        return function(*jax.lax.optimization_barrier(given))

    def branched(*given: Any) -> Any:
        # XLA's CPU compiler (jaxlib 0.10) drops barriers before it orders a program, also those by which jax.checkpoint
        # holds work back until its cotangent is there. The inside of a branch it cannot run early.
        shapes = jax.eval_shape(function, *given)
        never = lambda *_: jax.tree.map(lambda shape: jnp.full(shape.shape, jnp.nan, shape.dtype), shapes)  # noqa: E731
        always = jax.lax.optimization_barrier(jnp.int32(1)) > 0
        return jax.lax.cond(always, function, never, *given)

    return lambda *given: jax.lax.platform_dependent(*given, cpu=branched, default=barred)


def in_place(function: Callable[..., tuple[Any, ...]]) -> Callable[..., tuple[Any, ...]]:
    """As `in_turn`, for a function whose results have the shapes and types of its arguments and take their place."""

    def barred(*given: Any) -> Any:
        return function(*jax.lax.optimization_barrier(given))

    def looped(*given: Any) -> Any:
        # One round of a loop: what a branch gives would lie beside what it was given.
        once = jax.lax.optimization_barrier(jnp.int32(1))
        step = lambda carry: (carry[0] + 1, function(*carry[1]))  # noqa: E731
        return jax.lax.while_loop(lambda carry: carry[0] < once, step, (jnp.int32(0), given))[1]

    return lambda *given: jax.lax.platform_dependent(*given, cpu=looped, default=barred)


def converts(weights: Any, dtype: Any) -> bool:
    """Whether a layer has matrices of another type than `dtype`, in which it is computed."""
    kernels = [leaf for leaf in jax.tree.leaves(weights) if leaf.ndim > 1 and jnp.issubdtype(leaf.dtype, jnp.floating)]
    return any(leaf.dtype != dtype for leaf in kernels)


def recomputed(
    step: Callable[[Any, Any], Any], forward: Callable[[Any, Any], Any] | None = None
) -> Callable[[Any, Any], Any]:
    """`step(x, entry)`, whose backward pass runs it again from its inputs instead of reading what it kept.

    Rematerialisation (Chen et al., "Training deep nets with sublinear memory cost", 2016). Integers and random keys
    among the inputs are constants to it. Like all functions with a gradient of their own, not for forward mode.
    `forward` takes the place of `step` in the forward pass: the same, `in_turn`.
    """
    first = step if forward is None else forward

    def backward(inputs: Any, cotangent: Any) -> Any:
        leaves, tree = jax.tree.flatten(inputs)
        real = [jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in leaves]

        def pulled(leaves: list[Any], cotangent: Any) -> list[Any]:
            """The gradients of the real leaves."""

            def again(variables: list[Any]) -> Any:
                some = iter(variables)
                merged = [next(some) if varies else leaf for leaf, varies in zip(leaves, real, strict=True)]
                return step(*tree.unflatten(merged))

            variables = [leaf for leaf, varies in zip(leaves, real, strict=True) if varies]
            return jax.vjp(again, variables)[1](cotangent)[0]

        gradients = iter(in_turn(pulled)(leaves, cotangent))
        return tree.unflatten([next(gradients) if varies else None for varies in real])

    wrapped = jax.custom_vjp(first)
    wrapped.defvjp(lambda x, entry: (first(x, entry), (x, entry)), backward)
    return wrapped
