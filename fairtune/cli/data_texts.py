"""What `fairtune data check` prints of texts and prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fairtune.cli.models import print_table, table_of

if TYPE_CHECKING:
    from fairtune.data.text_report import PromptReport, TextReport


def print_prompts(found: PromptReport) -> None:
    """Print how many prompts there are, what may be wrong with them, and words in the texts."""
    if found.sentences:
        listed = ", ".join(f"{name} {count}" for name, count in found.sentences.items())
        print(f"prompts: {listed}")
    for doubt in found.doubts:
        print(f"warning: {doubt}")
    if found.words:
        listed = ", ".join(f"'{word}' in {rows:,}" for word, rows in found.words.items())
        print(f"warning: texts have words of the classes: {listed} rows")
    if found.sentences or found.words:
        print()


def print_texts(found: TextReport | None) -> None:
    """Print what the texts are like, and what was taken out of them; no text itself."""
    if found is None:
        return
    print(
        f"texts: {found.texts:,} of {found.rows:,} rows; {found.median:,.0f} characters in the "
        f"median, {found.longest:,} at most; {found.cut:,} cut"
    )
    if found.leaks_label:
        print("warning: whoever wrote the texts knew the label (text_leaks_label)")
    if found.found:
        from rich.markup import escape

        grid = table_of("taken out", "places>", "rows>")
        for one in found.found:
            grid.add_row(escape(one.name), f"{one.times:,}", f"{one.rows:,}")
        print_table(grid)
    print()
