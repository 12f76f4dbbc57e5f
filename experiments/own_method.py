"""A pruning method of one's own, made from the parts in jaxprune/prune; docs/own-method.md shows it.

    python experiments/own_method.py --remove 0.6
    python experiments/own_method.py --model MODEL --task sst2 --data glue --remove 0.4 --out small

Without --model and --data, the small model that comes with the package is pruned. Prints the score before and after.
"""

import argparse

# --- the method
from dataclasses import dataclass, field
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.model import Sites, forward
from jaxprune.pruning.by_scores import Refitting, by_scores

OUTPUTS = (("attention", "o"), ("feed_forward", "down"))


@partial(jax.jit, static_argnames="architecture")
def activity(params, batch, *, architecture):
    """How much every head and neuron writes into the stream: [units] for each sublayer, summed over real tokens."""
    features = forward(params, batch, architecture, Sites(taps=True)).features  # each [rows, length, units, …]
    outputs = [layer[half][name] for layer in params["layers"] for half, name in OUTPUTS]  # each [units, …, hidden]
    sizes = [jnp.abs(f) * jnp.linalg.norm(o["kernel"], axis=-1) for f, o in zip(features, outputs, strict=True)]
    return [jnp.einsum("rlu,rl->u", s.sum(axis=tuple(range(3, s.ndim))), batch.real.astype(s.dtype)) for s in sizes]


@dataclass(frozen=True, kw_only=True)
class Activity(Refitting):
    """Remove the units with the smallest share of their sublayer's activity per FLOP, and fit those that stay."""

    name = "activity"
    refit: str = field(default="weights", metadata={"help": "after the cut, fit none, scales or weights"})

    def prune(self, run, budgets):
        with run.phase("measure"):
            static = {"architecture": run.model.architecture}
            batches = [run.programs(activity, run.params, batch, **static) for batch in run.batches]
            scores = [np.sum(sums, axis=0) / np.sum(sums) for sums in zip(*batches, strict=True)]
        return by_scores(run, self, budgets, scores)  # one threshold, the refit and the cut, for every budget


# --- the script


def main() -> None:
    import jaxprune as jp
    from jaxprune.assets import demo_data_path, demo_model_path

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(demo_model_path()), help="a checkpoint's folder or hub id (the demo)")
    parser.add_argument("--task", default="text-classification", help="as of `jaxprune prune` (text-classification)")
    parser.add_argument("--data", help="folder with the task's files (default: the demo's, or for other tasks the hub)")
    parser.add_argument("--remove", type=float, default=0.6, help="fraction of the FLOPs to remove (0.6)")
    parser.add_argument("--calibration-samples", type=int, default=512, help="texts to measure on (512)")
    parser.add_argument("--limit", type=int, help="score the first so many texts only")
    parser.add_argument("--out", help="save the smaller model there")
    arguments = parser.parse_args()
    demo = demo_data_path() if arguments.task == "text-classification" else None
    task = jp.tasks.load(arguments.task, arguments.data or demo)
    model = jp.load(arguments.model)
    calibration, budget = task.calibration(arguments.calibration_samples), jp.Budget(arguments.remove)
    pruned = jp.prune(model, calibration, budget, Activity())
    for name, scored in (("dense", model), ("pruned", pruned)):
        result = jp.evaluate(scored, task, limit=arguments.limit)
        print(f"{name}: {result.metric} {result.score:.4f} on {result.examples} texts")
    for warning in pruned.provenance.warnings:
        print(f"warning: {warning}")
    if arguments.out:
        print(f"saved: {jp.save(pruned, arguments.out)}")


if __name__ == "__main__":
    main()
