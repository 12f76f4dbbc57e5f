"""Recovery of the model that comes with the package: accuracy dense, pruned by K-prune, and recovered without labels.

    python experiments/recover_demo.py --remove 0.8 0.9 --steps 100 --seeds 0 1 2

The validation sentences score; nothing was chosen on them.
"""

import argparse

import jaxprune as jp
from jaxprune.assets import demo_data_path, demo_model_path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--remove", type=float, nargs="+", default=[0.8, 0.9])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    model, task = jp.load(demo_model_path()), jp.tasks.folder(demo_data_path())
    print(f"dense {jp.evaluate(model, task).score:.3f}")
    print("| removed | seed | pruned | recovered | rate | seconds |\n| --- | --- | --- | --- | --- | --- |")
    for seed in arguments.seeds:
        texts = task.calibration(len(task.train), seed=seed)
        recover = jp.Recover(texts, steps=arguments.steps, seed=seed)
        budgets = [jp.Budget(remove) for remove in arguments.remove]
        for budget, pruned in zip(budgets, jp.prune(model, task.calibration(512, seed=seed), budgets), strict=True):
            recovered = recover(pruned, model)
            notes = recovered.provenance.record["recovery"]
            scores = (jp.evaluate(each, task).score for each in (pruned, recovered))
            before, after = (f"{score:.3f}" for score in scores)
            print(
                f"| {budget.remove:.0%} | {seed} | {before} | {after} | {notes['learning_rate']:g} | "
                f"{notes['seconds']:.0f} |"
            )


if __name__ == "__main__":
    main()
