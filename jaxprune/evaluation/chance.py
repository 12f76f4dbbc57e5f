"""A warning of scores that one answer to all would have."""


def chance_level(
    metric: str, score: float, chance: float | None, count: int, *, one_answer: bool, one_label: bool
) -> tuple[str, ...]:
    """A warning where the model answers alike to all texts, or scores as well as one answer to all would.

    `chance` is what the best such answer scores; within two standard errors of it is as well. Where labels are all
    alike (`one_label`) or so few that not even a perfect score would stand out, scores do not tell, and say nothing. A
    metric of which nothing is known (`chance` None) is doubted only for one answer to all.
    """
    if one_label:
        return ()
    advice = "check that the checkpoint was tuned for this task."
    if one_answer:
        return (f"the model gives one and the same answer to all {count} examples ({metric} {score:.4f}): {advice}",)
    if chance is None:
        return ()
    correlation = metric in ("matthews", "pearson", "spearman")
    bar = chance + 2 * (1.0 if correlation else (chance * (1 - chance)) ** 0.5) / count**0.5
    if score > bar or bar >= 1:
        return ()
    said = "is no better than" if score <= chance else "cannot be told from"
    return (f"{metric} {score:.4f} on {count} examples {said} one answer to all ({chance:.4f}): {advice}",)
