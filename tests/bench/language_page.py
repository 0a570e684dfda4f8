"""The section of docs/measured.md from the file of language.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evidence_page import source, table

TITLE = "Images and texts"


def pairs(found: Mapping[str, Any]) -> list[str]:
    """Return the section of `language.json`."""
    return [
        f"## {TITLE}",
        "",
        f"DINOv2 ViT-S/14 at 70 px and MiniLM-L6 on the pairs of `covid_cxr`, fp32, medians of "
        f"{found['rounds']} rounds in turn (`tests/bench/language.py`). The published ways are "
        f"written anew from their description. The scores of both ways of zero-shot scoring "
        f"differ by {found['largest_difference']:.0e} at most.",
        "",
        *source(found),
        f"- machine: {found['machine']['cpu']}",
        "",
        *brief(found),
        "",
    ]


def brief(found: Mapping[str, Any]) -> list[str]:
    """Return the table, for its page."""
    rows, loss = found["rows"], found["loss"]
    body = [
        _line(
            found,
            f"zero-shot scores of {rows['scored']} images, {found['prompts']} prompts",
            "zero_shot",
            "zero_shot_published",
            "prompts embedded for every image",
        ),
        _line(
            found,
            f"linear readout of {rows['fitted']} rows of {found['features']} features "
            f"(loss {loss['readout']:.3f})",
            "readout",
            "readout_published",
            f"{found['epochs']:,} epochs of LARS (loss {loss['readout_published']:.3f})",
        ),
        _line(
            found,
            "texts of a frozen text tower, as a later run finds them",
            "texts_kept",
            "texts",
            "embedded in every epoch",
        ),
    ]
    return table(["what", "seconds", "against", "seconds", "times"], body)


def _line(found: Mapping[str, Any], what: str, own: str, other: str, against: str) -> list[str]:
    mine, theirs = found["seconds"][own], found["seconds"][other]
    return [what, f"{mine:.3g}", against, f"{theirs:.3g}", f"{theirs / mine:.1f}"]
