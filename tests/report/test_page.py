"""The page of a tested study: what it says, and what it may never hold."""

from __future__ import annotations

import json
import re
from dataclasses import replace

from kit_page import Page
from kit_study import HOSTILE

from fairtune.report.figure import DARK
from fairtune.report.figures import FIGURES
from fairtune.report.provenance import provenance
from fairtune.report.render import render
from fairtune.report.tables import Tables
from fairtune.report.words import HARMS, LABELS
from fairtune.study.outcome import Outcome
from fairtune.study.overview import Overview
from fairtune.study.place import Place


def test_the_verdict_comes_first_with_its_reason(view: Overview, page: Page) -> None:
    outcome = Outcome.load(view)
    assert outcome is not None
    found = outcome.verdict
    said = re.sub(r"\s+", " ", page.prose)
    assert f"Verdict: {found.answer}" in said
    why = re.sub(r"(?<=\s)-(?=\d)", "−", found.why)
    assert why[1:] in said
    assert said.index("Verdict:") < said.index("Outcome") < said.index("Costs")
    for fact in (str(view.judge.primary), outcome.pick, "this method"):
        assert fact in said
    assert "The test split was opened 2 times" in said


def test_sections_stand_in_order(page: Page) -> None:
    wanted = ["tested", None, "Before you rely on this", "Outcome", "Groups",
              "What the scores do", "The search", "What trains", "Costs",
              "Recipe and provenance"]  # fmt: skip
    assert len(page.heads) == len(wanted)
    assert all(w is None or w == h for w, h in zip(wanted, page.heads))
    assert page.titles == [
        "Every group, pick and baselines", "Who gains and who pays",
        "ROC of the pick by sex, test", "Calibration of the pick by sex, test",
        "What the decisions mean", "Net benefit by sex, test", "Where groups meet, test",
        "History of the search", "Is the climb real?", "Pareto front", "Training of the pick",
        "The pick on its network", "What the recipes train", "Which parts go with a better figure",
        "Importance of the searched parameters",
    ]  # fmt: skip
    # Who jumps from heading to heading misses none.
    assert all(b <= a + 1 for a, b in zip(page.levels, page.levels[1:]))


def test_wording_says_which_harm_and_that_labels_differ(page: Page) -> None:
    said = re.sub(r"\s+", " ", page.prose)
    assert HARMS["auc"] in said
    assert LABELS in said
    assert not re.search(r"debiased|unbiased model|fair model|fairest", said, re.I)


def test_nothing_comes_from_the_network(page: Page, html: str) -> None:
    for tag, attrs in page.tags:
        assert tag not in ("link", "iframe", "img", "object", "embed"), tag
        for name in ("src", "href", "srcset", "action", "data"):
            value = attrs.get(name)
            assert value is None or value.startswith("#"), f"<{tag} {name}={value}>"
    policy = next(a["content"] for t, a in page.tags if t == "meta" and "http-equiv" in a)
    assert policy is not None
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "url(" not in html[html.index("<style>") : html.index("</style>")]
    assert len(html.encode()) < 6 * 2**20


def test_names_are_escaped_everywhere(view: Overview, tables: Tables, html: str) -> None:
    assert HOSTILE[0] not in html
    name = "</title><script>alert(2)</script>"
    moved = replace(view, place=Place(view.place.out, name))
    summary = replace(tables.summary, study=name)
    page = Page.read(render(moved, replace(tables, summary=summary)))
    assert len([tag for tag, _ in page.tags if tag == "script"]) == len(FIGURES) + 2
    assert page.heads[0] == name
    by_sex = page.table("AUC by sex, test")
    assert HOSTILE[0] in by_sex
    assert HOSTILE[1] in by_sex


def test_plots_are_json_and_name_groups_safely(page: Page) -> None:
    plots = {k: v for k, v in page.scripts.items() if k.endswith("-json")}
    assert set(plots) == {f"{name}-json" for name in [*(set(FIGURES) - {"forest"}), "every-group"]}
    for text in plots.values():
        assert "<" not in text
        assert len(text) < 100_000
        figure = json.loads(text)
        assert figure["data"]
        # Plotly's own little HTML: names must reach it escaped.
        assert "<script" not in json.dumps(figure)
    assert "&lt;script&gt;" in json.dumps(json.loads(plots["roc-json"]))


def test_every_colour_has_a_dark_partner(page: Page) -> None:
    plots = [v for k, v in page.scripts.items() if k.endswith("-json")]
    used = {c for text in plots for c in re.findall(r"#[0-9A-Fa-f]{6}", text)}
    assert used
    assert used <= set(DARK)


def test_figures_can_be_read_without_eyes_or_mouse(page: Page) -> None:
    plots = [a for t, a in page.tags if t == "div" and a.get("role") == "img"]
    assert len(plots) == len(FIGURES)
    assert all(a.get("aria-label") for a in plots)
    ids = [a["id"] for _, a in page.tags if "id" in a]
    for figure in (a for t, a in page.tags if t == "figure"):
        assert figure["aria-labelledby"] in ids
        assert figure["aria-describedby"] in ids
    # The order of the page is the order of the keyboard.
    assert not [a for _, a in page.tags if a.get("tabindex") not in (None, "0")]
    first = next(a for t, a in page.tags if t == "a")
    assert first["href"] == "#verdict"
    assert len(ids) == len(set(ids))
    named = [a["aria-labelledby"] for _, a in page.tags if "aria-labelledby" in a]
    anchors = [str(a["href"])[1:] for t, a in page.tags if t == "a"]
    assert set(named) <= set(ids)
    assert set(anchors) <= set(ids)
    scrolled = [a for _, a in page.tags if a.get("class") == "scroll"]
    assert all(a["tabindex"] == "0" and a["aria-label"] for a in scrolled)
    heads = [a for t, a in page.tags if t == "th"]
    assert all(a["scope"] in ("row", "col") for a in heads)


def test_small_cells_are_suppressed(page: Page, tables: Tables) -> None:
    rows = page.table("AUC by sex, test")
    assert rows["X"]["n"] == "<5"
    assert rows["X"]["positives"] == ""
    assert {v for k, v in rows["X"].items() if k not in ("sex", "n", "positives")} == {
        "n too small"
    }
    # The total minus the other groups must not give the hidden count away.
    assert sum("–" in row["n"] for row in rows.values()) == 1
    assert "X" not in set(tables.roc["group"])
    for name, text in page.scripts.items():
        if name.endswith("-json"):
            assert "sex: X" not in text


def test_nothing_of_the_machine_or_the_patients_is_shown(page: Page, view: Overview) -> None:
    data = "".join(v for k, v in page.scripts.items() if k.endswith("-json"))
    for text in (page.prose, data):
        assert str(view.place.out) not in text
        assert "secret" not in text
        assert not re.search(r"\bp\d{5}\b", text)
    provenance = {row[0]: row[1] for row in page.tables["Provenance"]}
    assert provenance["storage"] == "sqlite: study.db"


def test_a_hidden_password_stays_hidden(view: Overview) -> None:
    secret = "postgresql://me:***@host/db"
    found = provenance(replace(view, url=secret), None)
    assert {row[0].text: row[1].text for row in found.rows}["storage"] == secret
