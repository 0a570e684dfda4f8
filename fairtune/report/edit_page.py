"""The page of an assessment of an edit, and the same numbers as JSON."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

from PIL import Image

from fairtune.experiment.assessed import Arm, Assessment, Figure, Pair
from fairtune.experiment.edit_words import few, headline, sentences
from fairtune.report import edit_figures, edit_grids
from fairtune.report.edit_grids import SPLITS, name_of
from fairtune.report.files import put
from fairtune.report.grid import Grid
from fairtune.report.render import document
from fairtune.report.sections import Part, Picture, Section
from fairtune.report.words import LABELS, count_texts, grouped, prose

NOTHING_SHOWN = "This page holds no image and no patient identifier."
SHOWN = "This page shows images of patients: treat it as you treat the data."
ONE_SEED = (
    "One edit and one draw of noise were made: the intervals speak of patients, not of what "
    "another seed would have found."
)


def write(
    found: Assessment, content: bytes, path: Path, pairs: Sequence[Pair] = ()
) -> tuple[Path, Path]:
    """Write an edit, and its page and numbers beside it; return where these two stand.

    Args:
        found: The assessment.
        content: Of the edit's file.
        path: The edit's file.
        pairs: Images without and with the edit, to be shown in the page.

    Raises:
        StorageError: A file cannot be written.
    """
    html, numbers = page(found, pairs), as_json(found)
    put(path, content)
    return put(path.with_suffix(".html"), html), put(path.with_suffix(".json"), numbers)


def page(found: Assessment, pairs: Sequence[Pair] = ()) -> str:
    """Return the page as HTML."""
    data, model = found.recipe["data"], found.recipe["model"]
    content = {
        "title": f"An edit for {found.attribute}: {name_of(model['name'])} on "
        f"{name_of(data['dataset'])}",
        "answer": f"What it does on {SPLITS[found.split]}",
        "headline": headline(found),
        "sentences": sentences(found),
        "facts": _facts(found),
        "warnings": _warnings(found, pairs),
        "holds": SHOWN if pairs else NOTHING_SHOWN,
    }
    return document("edit.html.j2", content, sections(found, pairs))


def sections(found: Assessment, pairs: Sequence[Pair] = ()) -> list[Section]:
    """Return the page below its answer; sections without content are left out."""
    table = _table
    released = edit_grids.published(found)
    path = edit_figures.trace(found)
    parts = [
        Section(
            "attribute",
            f"Is {found.attribute} hidden?",
            [
                Part("text", "A head that was fitted before the edit is easily misled: its scores "
                     "are moved past its threshold, or spread. What the images still hold is seen "
                     "by a head that is fitted again on edited images."),
                table(edit_grids.reads(found)),
                Part("figure", figure=edit_figures.arms(found)),
            ],
        ),
        Section(
            "task",
            "What does it cost?",
            [
                table(edit_grids.task(found)),
                table(edit_grids.changes(found)),
                table(edit_grids.groups(found, "auc", "AUC")),
                Part("folded", "Sensitivity and false-positive rate by group", [
                    edit_grids.groups(found, "tpr", "Sensitivity"),
                    edit_grids.groups(found, "fpr", "False-positive rate"),
                ]),
                *([] if released is None else [table(released)]),
                Part("note", LABELS),
            ],
        ),
        Section(
            "edit",
            "The edit",
            [
                Part("figure", figure=edit_figures.picture(found)),
                *([] if path is None else [Part("figure", figure=path)]),
                table(edit_grids.queries(found)),
            ],
        ),
        Section("images", "Images without and with it", _images(pairs)),
        Section("provenance", "Recipe and provenance", [table(edit_grids.fields(found))]),
    ]  # fmt: skip
    return [section for section in parts if section.parts]


def as_json(found: Assessment) -> str:
    """Return the numbers of the page as JSON; small counts are suppressed as there."""
    content = {
        "attribute": found.attribute,
        "groups": list(found.groups),
        "split": found.split,
        "rows": found.rows,
        "patients": found.patients,
        "fitted_rows": found.fitted,
        "test_openings": found.openings,
        "headline": headline(found),
        "sentences": sentences(found),
        "arms": [_arm(arm) for arm in found.arms],
        "differences": [
            {"figure": c.figure, "arm": "edit", "against": c.against, **_ends(c.change)}
            for c in found.changes
        ],
        "queries": dict(found.queries),
        "trace": [dict(row) for row in found.trace],
        "edit": dict(found.about),
        "recipe": dict(found.recipe),
        "notes": list(map(prose, found.notes)),
    }
    return json.dumps(_plain(content), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _facts(found: Assessment) -> list[tuple[str, str]]:
    norms, asked = found.arm("edit").norms, found.queries
    size = found.recipe["model"]["image_size"]
    facts = [
        ("Groups", ", ".join(found.groups)),
        ("Assessed on", f"{grouped(found.rows)} images of {grouped(found.patients)} patients"),
        ("Root mean square", f"{norms['rms']:.2f} / 255"),
        ("Largest pixel", f"{norms['linf']:.2f} / 255"),
        ("L2 norm", f"{norms['l2']:.2f} at {size} px"),
        ("Queries of the search", grouped(asked.get("steps", 0) + asked.get("refits", 0))),
    ]
    if found.split == "test":
        facts.append(("Test openings", str(found.openings)))
    return facts


def _warnings(found: Assessment, pairs: Sequence[Pair]) -> list[str]:
    shown = [SHOWN] if pairs else []
    return [*shown, *few(found), ONE_SEED, *map(prose, found.notes)]


def _images(pairs: Sequence[Pair]) -> list[Part]:
    pictures = []
    for i, pair in enumerate(pairs, 1):
        for image, words in ((pair.before, "as it is"), (pair.after, "with the edit")):
            caption = f"Training image {i}, {words}"
            pictures.append(Picture(_uri(image), caption, caption))
    return [Part("pictures", pictures=pictures)] if pictures else []


def _uri(image: Any) -> str:
    held = io.BytesIO()
    pixels = image[..., 0] if image.shape[-1] == 1 else image
    Image.fromarray(pixels).save(held, "PNG")
    return f"data:image/png;base64,{base64.b64encode(held.getvalue()).decode()}"


def _table(grid: Grid) -> Part:
    return Part("table", grids=[grid])


def _arm(arm: Arm) -> dict[str, Any]:
    counts = {
        name: count_texts([getattr(group, name) for group in arm.groups])
        for name in ("n", "patients", "positives")
    }
    return {
        "arm": arm.name,
        "what": arm.words,
        "figures": {name: _ends(figure) for name, figure in arm.figures.items()},
        "groups": [
            {
                "group": group.name,
                **{name: counts[name][i] for name in counts},
                **{name: _ends(figure) for name, figure in group.figures.items()},
            }
            for i, group in enumerate(arm.groups)
        ],
        "as_published": dict(arm.released),
        "norms": dict(arm.norms),
    }


def _ends(figure: Figure) -> dict[str, float]:
    return {"value": figure.value, "low": figure.low, "high": figure.high}


def _plain(value: Any) -> Any:
    """Return a value as JSON can say it, names of files without their folders."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return (
        PurePath(value).name if isinstance(value, str) and value.startswith(("/", "~")) else value
    )
