"""The tables of an assessment of an edit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath

from fairtune.experiment.assessed import COMPARED, FROZEN, RETRAINED, TASK, Arm, Assessment, Figure
from fairtune.report.grid import Cell, Grid, cell
from fairtune.report.words import NOTHING, count_texts, grouped, with_ends

SPLITS = {"val": "validation", "test": "test"}
HEADS = {
    FROZEN: "head of unedited images",
    RETRAINED: "head re-trained on edited images",
    "auc": "AUC",
    "worst_auc": "AUC of the worst group",
    "auc_gap": "AUC gap",
    "eo_diff": "equalized-odds difference",
}
NORMS = {"rms": "RMS, 1/255", "linf": "largest pixel, 1/255", "l2": "L2 norm"}
CONTROLS = ("none", "random", "reweighted")


def reads(found: Assessment) -> Grid:
    """Return how well two heads read the attribute, by arm, with the size of what is added."""
    names = (FROZEN, RETRAINED)
    rows = [
        [_name(arm), *(_figure(arm.figures[n]) for n in names), *_norms(arm)] for arm in found.arms
    ]
    split = SPLITS[found.split]
    return Grid(
        f"How well a linear head reads {found.attribute}: AUC with 95 % interval, {split}",
        ["arm", *(HEADS[n] for n in names), *NORMS.values()],
        rows,
        notes=[f"{arm.name}: {arm.words}." for arm in found.arms],
    )


def task(found: Assessment) -> Grid:
    """Return how the task fares, by arm."""
    rows = [[_name(arm), *(_figure(arm.figures[n]) for n in TASK)] for arm in found.arms]
    notes = [
        "Task heads are linear and solved on training images. Decisions for the equalized-odds "
        f"difference are made at {_threshold(found)}."
    ]
    caption = f"The task by arm, with 95 % intervals, {SPLITS[found.split]}"
    return Grid(caption, ["arm", *(HEADS[n] for n in TASK)], rows, notes=notes)


def published(found: Assessment) -> Grid | None:
    """Return the figures by the formulas of other tools; None where there are none."""
    names = list(dict.fromkeys(name for arm in found.arms for name in arm.released))
    if not names:
        return None
    rows = [[_name(arm), *(cell(arm.released.get(n)) for n in names)] for arm in found.arms]
    note = (
        "By the formulas of DNE's released code, decided at 0.5, without intervals: EO_n and EO_p "
        "are gaps in specificity and sensitivity in percentage points; DI is 1 minus the ratio of "
        "sensitivities of the second group to the first, signed."
    )
    caption = f"As published, {SPLITS[found.split]}"
    return Grid(caption, ["arm", *names], rows, notes=[note])


def changes(found: Assessment) -> Grid:
    """Return the edit minus each control."""
    rows = [
        [Cell(_long(name)), *(_change(found.change(name, control)) for control in CONTROLS)]
        for name in COMPARED
    ]
    heads = [f"edit − {control}" for control in CONTROLS]
    caption = f"The edit against controls, on the same patients, {SPLITS[found.split]}"
    note = "Differences with 95 % intervals, patients resampled: of this edit, not of the method."
    return Grid(caption, ["figure", *heads], rows, notes=[note])


def groups(found: Assessment, metric: str, words: str) -> Grid:
    """Return a metric of every group, by arm."""
    first = found.arms[0].groups
    sizes = count_texts([group.n for group in first])
    positives = count_texts([group.positives for group in first])
    heads = [f"{g.name} (n {n}, with finding {p})" for g, n, p in zip(first, sizes, positives)]
    rows = [
        [_name(arm), *(_figure(g.figures.get(metric, Figure())) for g in arm.groups)]
        for arm in found.arms
    ]
    caption = f"{words} by {found.attribute}, {SPLITS[found.split]}"
    return Grid(caption, ["arm", *heads], rows)


def queries(found: Assessment) -> Grid:
    """Return what the model was asked, by what for."""
    words = {
        "heads": "fitting heads on unedited images",
        "steps": "steps of the search",
        "refits": "fitting heads anew on edited images",
        "assessing": "embedding images for this page, batches of up to 128",
    }
    rows = [[Cell(words.get(k, k)), Cell(grouped(n))] for k, n in found.queries.items()]
    note = "A query is one batch of images; steps and refits are those of the edit's budget."
    return Grid("Queries of the model", ["for", "batches"], rows, notes=[note])


def fields(found: Assessment) -> Grid:
    """Return what was asked for: data, model and every field of the edit that acts."""
    data, model = found.recipe["data"], found.recipe["model"]
    rows = {
        "dataset": name_of(data["dataset"]),
        "target": data["target"],
        "rows": ", ".join(f"{k}={v}" for k, v in data["where"].items()) or "all",
        "model": name_of(model["name"]),
        "image size": f"{model['image_size']} px",
        "weights, SHA-256 of tensors": model["weights_sha"],
        "rows that heads are fitted on": grouped(found.fitted),
        **{f"edit: {k}": v for k, v in flat(_rule(found)).items()},
    }
    versions = found.about.get("versions")
    if isinstance(versions, Mapping):
        rows["versions"] = ", ".join(f"{k} {v}" for k, v in versions.items())
    told = [[Cell(str(k)), Cell(_plain(v))] for k, v in rows.items()]
    return Grid("Recipe and provenance", ["", ""], told, numeric=False)


def _rule(found: Assessment) -> Mapping[str, object]:
    rule = found.about.get("rule")
    if not isinstance(rule, Mapping):
        return {k: v for k, v in found.about.items() if k not in ("norms", "versions")}
    ((_, fields_),) = rule.items()
    return dict(fields_)


def name_of(name: str) -> str:
    """Return a dataset or model by its name, without the folder of a file."""
    return PurePath(name).stem


def flat(fields: Mapping[str, object], before: str = "") -> dict[str, object]:
    """Return nested fields by their dotted paths; a member without fields as its name."""
    out: dict[str, object] = {}
    for name, value in fields.items():
        if isinstance(value, Mapping) and value:
            members = {k: v for k, v in value.items() if isinstance(v, Mapping) and not v}
            if len(members) == len(value) == 1:
                out[before + name] = next(iter(members))
            else:
                out |= flat(value, f"{before}{name}.")
        else:
            out[before + name] = value
    return out


def _plain(value: object) -> str:
    return NOTHING if value is None else str(value)


def _long(name: str) -> str:
    return (
        f"attribute AUC, {HEADS[name]}" if name in (FROZEN, RETRAINED) else f"task: {HEADS[name]}"
    )


def _name(arm: Arm) -> Cell:
    return Cell(arm.name, "strong" if arm.name == "edit" else "plain")


def _figure(figure: Figure) -> Cell:
    if not figure.known:
        return cell(None)
    return Cell(with_ends(figure.value, figure.low, figure.high))


def _change(figure: Figure) -> Cell:
    if not figure.known:
        return cell(None)
    return Cell(with_ends(figure.value, figure.low, figure.high, sign=True))


def _norms(arm: Arm) -> list[Cell]:
    return [Cell(f"{arm.norms[n]:.2f}") if arm.norms else cell(None) for n in NORMS]


def _threshold(found: Assessment) -> str:
    if found.split == "test":
        return "each arm's Youden threshold of validation"
    return "each arm's Youden threshold, cross-fitted on patients"
