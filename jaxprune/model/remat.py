"""Layers that keep nothing but their inputs for the backward pass, which runs them again."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def recomputed(step: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """`step(x, entry)`, whose backward pass runs it again from its inputs instead of reading what it kept.

    Rematerialisation (Chen et al., "Training deep nets with sublinear memory cost", 2016). Integers and random keys
    among the inputs are constants to it. Like all functions with a gradient of their own, not for forward mode.
    """

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

        def barred(*given: Any) -> list[Any]:
            return pulled(*jax.lax.optimization_barrier(given))

        def branched(*given: Any) -> list[Any]:
            # XLA's CPU compiler (jaxlib 0.10) drops the barriers by which jax.checkpoint holds work back until its
            # cotangent is there, and then runs it as early as it can, which saves next to nothing. The inside of a
            # branch it cannot run early.
            shapes = jax.eval_shape(pulled, *given)
            never = lambda *_: jax.tree.map(lambda shape: jnp.full(shape.shape, jnp.nan, shape.dtype), shapes)  # noqa: E731
            always = jax.lax.optimization_barrier(jnp.int32(1)) > 0
            return jax.lax.cond(always, pulled, never, *given)

        gradients = iter(jax.lax.platform_dependent(leaves, cotangent, cpu=branched, default=barred))
        return tree.unflatten([next(gradients) if varies else None for varies in real])

    wrapped = jax.custom_vjp(step)
    wrapped.defvjp(lambda x, entry: (step(x, entry), (x, entry)), backward)
    return wrapped
