"""A training step of a language model against a plain optax step on the same parameters: milliseconds, in turns.

    python experiments/step_speed.py --model build/models/smollm2-135m --out experiments/results/step_speed.jsonl

All weights of a Llama train on next tokens. The plain step below is written without jaxprune, holds all logits at once
and shares nothing but the shape of its parameters; both see the same tokens, start at the same weights and must give
the same loss. Leave the machine alone meanwhile. `--table FILE` prints the lines.
"""

import argparse
import json
import statistics
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from kprune_glue import machine

RATE, CLIP, DECAY = 5e-5, 1.0, 0.01


def norm(x, scale, eps=1e-5):
    wide = x.astype(jnp.float32)
    return (wide * jax.lax.rsqrt(jnp.mean(wide**2, -1, keepdims=True) + eps)).astype(x.dtype) * scale


def turned(x, rotary):
    """Rotary positions on [batch, tokens, …, width], halves apart."""
    angle = jnp.arange(x.shape[1])[:, None] * rotary
    angle = angle.reshape(1, x.shape[1], *(1,) * (x.ndim - 3), rotary.size)
    cos, sin = jnp.cos(angle).astype(x.dtype), jnp.sin(angle).astype(x.dtype)
    a, b = jnp.split(x, 2, -1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


def plain_loss(params, ids, rotary, dtype):
    """Mean next-token loss of a Llama with tied embeddings."""
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
    x = params["embed"]["token"][ids]
    causal = jnp.tril(jnp.ones((ids.shape[1],) * 2, bool))
    for layer in params["layers"]:
        attention, ff = layer["attention"], layer["feed_forward"]
        y = norm(x, attention["norm"]["scale"])
        q = turned(jnp.einsum("bth,hgqw->btgqw", y, attention["q"]["kernel"]), rotary)
        k = turned(jnp.einsum("bth,hgw->btgw", y, attention["k"]["kernel"]), rotary)
        v = jnp.einsum("bth,hgw->btgw", y, attention["v"]["kernel"])
        scores = jnp.einsum("btgqw,bsgw->bgqts", q, k).astype(jnp.float32) / np.sqrt(q.shape[-1])
        weights = jax.nn.softmax(jnp.where(causal, scores, -jnp.inf), -1).astype(dtype)
        x += jnp.einsum("bgqts,bsgw,gqwh->bth", weights, v, attention["o"]["kernel"])
        y = norm(x, ff["norm"]["scale"])
        x += (jax.nn.silu(y @ ff["gate"]["kernel"]) * (y @ ff["up"]["kernel"])) @ ff["down"]["kernel"]
    logits = norm(x, params["final_norm"]["scale"]) @ params["embed"]["token"].T
    return optax.softmax_cross_entropy_with_integer_labels(logits[:, :-1].astype(jnp.float32), ids[:, 1:]).mean()


RULE = optax.chain(optax.clip_by_global_norm(CLIP), optax.adamw(RATE, weight_decay=DECAY))


@partial(jax.jit, static_argnames="dtype", donate_argnums=(0, 1))
def plain_step(params, moments, ids, rotary, dtype):
    value, gradient = jax.value_and_grad(plain_loss)(params, ids, rotary, dtype)
    updates, moments = RULE.update(gradient, moments, params)
    return optax.apply_updates(params, updates), moments, value


def ours(model: Any, ids: np.ndarray, dtype: Any):
    """A function that takes one step of jaxprune's, and gives the loss before it."""
    import jaxprune as jp
    from jaxprune.finetuning.epochs import batches_for
    from jaxprune.finetuning.losses import targets_of
    from jaxprune.finetuning.recover import no_targets
    from jaxprune.finetuning.step import Clock, Frozen, State, everything, optimizer, select, train_step
    from jaxprune.tokens.encoded import Encoded

    settings = jp.Train(
        dtype=dtype, learning_rate=RATE, weight_decay=DECAY, clip=CLIP, warmup=0.0, dropout=0.0, batch_size=len(ids)
    ).resolved(model.architecture, False)
    variables, frozen = select(model.params, everything)
    variables = jax.tree.map(jnp.array, {"params": variables, "adapters": []})
    batch = batches_for(Encoded(list(ids), list(np.zeros_like(ids))), model.architecture, settings)(0)[0]
    goal = targets_of(batch, no_targets(model.architecture, len(ids)))
    assert batch.ids.shape == ids.shape, batch.ids.shape
    state = [State(variables, optimizer(settings, 10**6, RATE).init(variables))]

    def step() -> float:
        clock = Clock(np.int32(0), np.int32(10**6), np.float32(RATE), jax.random.key(0))  # type: ignore[arg-type]
        state[0], value = train_step(
            state[0], Frozen(frozen, [], None), batch, goal, clock, architecture=model.architecture,
            settings=settings.of_program(),
        )  # fmt: skip
        return float(value)

    return step


def plain(model: Any, ids: np.ndarray, dtype: str):
    """The same of the plain step."""
    params = jax.tree.map(jnp.array, model.params)
    state = [params, RULE.init(params)]
    rotary = jnp.asarray(model.architecture.rotary)

    def step() -> float:
        *state[:], value = plain_step(*state, ids, rotary, jnp.dtype(dtype))
        return float(value)

    return step


def measure(args: argparse.Namespace) -> None:
    import jaxprune as jp

    model = jp.load(args.model)
    ids = np.random.RandomState(0).randint(3, model.architecture.vocab, (args.rows, args.length)).astype(np.int32)
    for dtype in args.dtypes:
        steps, compiling, losses = {}, {}, {}
        for name, build in (("jaxprune", ours), ("plain", plain)):
            steps[name] = build(model, ids, dtype)
            began = time.perf_counter()
            losses[name] = steps[name]()
            first = time.perf_counter() - began
            began = time.perf_counter()
            steps[name]()
            compiling[name] = first - (time.perf_counter() - began)
        seconds: dict[str, list[float]] = {name: [] for name in steps}
        for _ in range(args.turns):
            for name, step in steps.items():
                began = time.perf_counter()
                step()
                seconds[name].append(time.perf_counter() - began)
        ratios = sorted(a / b for a, b in zip(seconds["jaxprune"], seconds["plain"], strict=True))
        line = {
            "dtype": dtype, "rows": args.rows, "length": args.length, "turns": args.turns,
            "first_loss": losses, "compile_seconds": compiling,
            "seconds": {name: statistics.median(each) for name, each in seconds.items()},
            "tokens_per_second": {name: ids.size / statistics.median(each) for name, each in seconds.items()},
            "ratio": statistics.median(ratios), "ratios": [ratios[0], ratios[-1]],
            "command": " ".join(["python", *sys.argv]), "machine": machine(),
            "versions": {"jaxprune": jp.__version__, "jax": jax.__version__, "optax": optax.__version__},
        }  # fmt: skip
        print(json.dumps(line), flush=True)
        if args.out:
            with args.out.open("a") as file:
                file.write(json.dumps(line) + "\n")


def print_table(file: Path) -> None:
    print("| type | step | first loss | milliseconds | tokens/s | compiling, s | of the plain step (least, most) |")
    print("|---|---|---|---|---|---|---|")
    for line in map(json.loads, file.read_text().splitlines()):
        for name in ("plain", "jaxprune"):
            low, high = line["ratios"]
            ratio = f"{line['ratio']:.2f} ({low:.2f}, {high:.2f})" if name == "jaxprune" else "1"
            print(
                f"| {line['dtype']} | {name} | {line['first_loss'][name]:.5f} | {1000 * line['seconds'][name]:.0f} "
                f"| {line['tokens_per_second'][name]:.0f} | {line['compile_seconds'][name]:.1f} | {ratio} |"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="build/models/smollm2-135m")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--table", type=Path, metavar="FILE")
    args = parser.parse_args()
    if args.table:
        print_table(args.table)
    else:
        measure(args)


if __name__ == "__main__":
    main()
