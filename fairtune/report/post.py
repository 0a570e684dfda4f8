"""What a reader has to know of a model whose scores are post-processed."""

from __future__ import annotations

from fairtune.experiment.stored import StoredRun


def by_group(run: StoredRun) -> bool:
    """Tell whether decisions are made at thresholds that differ by group."""
    return any(step.fitted.cut is not None for step in run.post)


def attributes(run: StoredRun) -> list[str]:
    """Return the attributes that have to be known of a patient, beside the image."""
    every = [part for step in run.post for part in step.fitted.attribute.split("*")]
    return list(dict.fromkeys(every))


def needs(run: StoredRun) -> list[str]:
    """Return sentences on the run's post-processing: what it needs, and what it lacks."""
    if not run.post:
        return []
    named = " and ".join(step.name for step in run.post)
    known = " and ".join(attributes(run))
    told = [
        f"Scores are post-processed ({named}): {known} has to be known of every patient who is "
        "scored. Where it is not known, or was not met in validation, the rule of all validation "
        "patients pooled takes its place."
    ]
    if by_group(run):
        told.append(
            "Decisions are made at thresholds that differ by group and, by a lot that is drawn "
            "once for each patient, within a group; scores are shifted so that 0.5 decides, and "
            "are no probabilities."
        )
    for step in run.post:
        if step.fitted.lacking:
            told.append(
                f"{step.name} had too few validation rows for a rule of their own for "
                f"{step.fitted.attribute}: {', '.join(step.fitted.lacking)}."
            )
    return told
