"""What an assessment of an edit says, in sentences."""

from __future__ import annotations

from fairtune.experiment.assessed import (
    EDIT,
    FROZEN,
    NONE,
    RANDOM,
    RETRAINED,
    REWEIGHTED,
    Assessment,
    Figure,
)

FEW_PATIENTS = 200
"""Below this, intervals are told to be wide."""


def sentences(found: Assessment) -> list[str]:
    """Return the answers: is the attribute hidden, what does it cost, against which controls."""
    return [hidden(found), frozen(found), cost(found), control(found)]


def headline(found: Assessment) -> str:
    """Say in a few words whether the attribute is hidden from a re-trained head."""
    return _hidden(found)[0]


def hidden(found: Assessment) -> str:
    """Say whether a re-trained head still reads the attribute."""
    edit, none = found.arm(EDIT).figures[RETRAINED], found.arm(NONE).figures[RETRAINED]
    change = _ends(found.change(RETRAINED), signed=True)
    told = f"AUC {_ends(edit)}, without edit {_ends(none)}, difference {change}"
    return f"{_hidden(found)[1]} ({told})."


def _hidden(found: Assessment) -> tuple[str, str]:
    edit, none = found.arm(EDIT).figures[RETRAINED], found.arm(NONE).figures[RETRAINED]
    change, name = found.change(RETRAINED), found.attribute
    if none.low <= 0.5:
        return (
            f"Nothing to hide is seen: {name} is not read even without edit",
            f"Even without edit a linear head cannot be told from guessing {name} on these "
            "patients: what an edit hides they cannot show",
        )
    if edit.low <= 0.5:
        return (
            f"A re-trained linear head cannot be told from guessing {name}",
            f"A linear head that is re-trained on edited images cannot be told from guessing "
            f"{name} on these patients; another kind of head, or more patients, might",
        )
    if change.high < 0:
        return (
            f"Harder to read, not hidden: a re-trained head still reads {name}",
            f"The edit makes {name} harder to read and does not hide it: a linear head that is "
            "re-trained on edited images still reads it",
        )
    if change.low > 0:
        return (
            f"Easier to read: a re-trained head reads {name} better than without edit",
            f"The edit makes {name} easier to read for a linear head that is re-trained",
        )
    return (
        f"Not hidden: a re-trained head reads {name} about as well as without edit",
        f"The edit does not hide {name}: a linear head that is re-trained on edited images reads "
        "it, and a difference to no edit cannot be told from 0",
    )


def frozen(found: Assessment) -> str:
    """Say what the head that was fitted before the edit sees."""
    edit, none = found.arm(EDIT).figures[FROZEN], found.arm(NONE).figures[FROZEN]
    return (
        f"The head that was fitted on unedited images reads {found.attribute} with AUC "
        f"{_ends(edit)} on edited ones, {_ends(none)} without edit. That alone says nothing of "
        "what the images still hold: whoever wants to know re-trains."
    )


def cost(found: Assessment) -> str:
    """Say what the edit does to the task."""
    parts = [
        _moved(found.change("auc"), "the AUC of the task", worse=-1),
        _moved(found.change("worst_auc"), "that of the worst-served group", worse=-1),
        _moved(found.change("eo_diff"), "the equalized-odds difference", worse=1),
    ]
    return f"Against no edit, {'; '.join(parts)}."


def control(found: Assessment) -> str:
    """Say what the edit does beyond noise of its size, and beside a reweighted head."""
    beyond = found.change(RETRAINED, RANDOM)
    told = _ends(beyond, True)
    noise = f"against random noise of the same norm the re-trained AUC differs by {told}"
    if beyond.high >= 0:
        noise += ", so it may hide no more than such noise does"
    eo = found.change("eo_diff", REWEIGHTED)
    if not eo.known:
        return f"As for controls, {noise}."
    other, what = "the reweighted head without edit", "equalized-odds difference"
    if eo.low > 0:
        said = f"{other} has the smaller {what}"
    elif eo.high < 0:
        said = f"{other} has the larger {what}"
    else:
        said = f"{other} cannot be told from the edit by the {what}"
    return f"As for controls, {noise}; {said} (edit minus that: {_ends(eo, True)})."


def few(found: Assessment) -> list[str]:
    """Return a warning where there are few patients, and groups that do not count."""
    said = []
    if found.patients < FEW_PATIENTS:
        said.append(
            f"These are {found.patients} patients: intervals are wide, and what cannot be told "
            "from 0 here may be there."
        )
    small = [g.name for g in found.arm(NONE).groups if not g.figures["auc"].known]
    if small:
        said.append(
            f"Too few patients for figures of their own: {', '.join(small)}. They count in no "
            "worst group and no gap."
        )
    return said


def _moved(change: Figure, what: str, *, worse: int) -> str:
    if not change.known:
        return f"{what} is not defined for these groups"
    told = _ends(change, True)
    if change.low > 0 or change.high < 0:
        side = "better" if (change.value > 0) == (worse < 0) else "worse"
        return f"{what} is {side} ({told})"
    return f"a change of {what} cannot be told from 0 ({told})"


def _ends(figure: Figure, signed: bool = False) -> str:
    """Return `0.612 [0.50, 0.71]`."""
    if not figure.known:
        return "not defined"
    value = f"{figure.value:+.3f}" if signed else f"{figure.value:.3f}"
    return f"{value} [{figure.low:.2f}, {figure.high:.2f}]".replace("-", "−")
