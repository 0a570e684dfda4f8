"""Markdown, JSON, CSV and the model card: each reads back, none tells too much."""

from __future__ import annotations

import io
import json
import re
from typing import Any

import pandas as pd
import pytest
from huggingface_hub import ModelCard
from kit_study import HOSTILE

from fairtune.errors import ConfigError, StudyError
from fairtune.report.card import Card, text
from fairtune.report.markdown import markdown, plain
from fairtune.report.plain import FRAMES, as_csv, as_json
from fairtune.report.scored import on_test
from fairtune.report.sections import sections
from fairtune.report.tables import Tables
from fairtune.report.write import write
from fairtune.study.outcome import Outcome
from fairtune.study.overview import Overview
from fairtune.study.place import Place


@pytest.fixture(scope="module")
def md(view: Overview, tables: Tables) -> str:
    return markdown(tables.summary, sections(view, tables))


@pytest.fixture(scope="module")
def data(view: Overview, tables: Tables) -> str:
    return as_json(tables, sections(view, tables))


@pytest.fixture(scope="module")
def card(view: Overview) -> str:
    return text(Card.of_study(view))


def tables_of(markdown_: str) -> list[list[str]]:
    """Lines of every table, from its head on."""
    blocks = re.split(r"\n(?!\|)", markdown_)
    return [b.splitlines() for b in blocks if re.search(r"^\|(---\|)+$", b, re.M)]


def cells(line: str) -> list[str]:
    return [c.strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]]


def test_markdown_has_the_verdict_and_whole_tables(md: str, card: str, tables: Tables) -> None:
    assert md.startswith("# tested\n\n## Verdict: ")
    assert md.index("## Outcome") < md.index("## Groups") < md.index("## Costs")
    for page in (md, card):
        found = tables_of(page)
        assert len(found) > 4
        for lines in found:
            lines = [line for line in lines if line.startswith("|")]
            assert len({len(cells(line)) for line in lines}) == 1, lines
    for caption in ("The pick by sex, test", "Runs, time and energy by phase"):
        assert f"**{caption}**" in md
    assert plain("a|b <i>\n*x*") == r"a\|b &lt;i&gt; \*x\*"


def refuse(word: str) -> Any:
    raise AssertionError(f"{word} is not JSON")


def test_json_is_strict_and_says_what_the_tables_say(data: str, tables: Tables) -> None:
    found = json.loads(data, parse_constant=refuse)
    assert found["summary"]["answer"] == tables.summary.answer
    assert found["summary"]["pick"] == tables.summary.pick
    assert set(FRAMES) <= set(found)
    values = {r["label"]: r["test"] for r in found["candidates"]}
    for row in tables.candidates.to_dict("records"):
        expected = None if row["test"] != row["test"] else pytest.approx(row["test"])
        assert values[row["label"]] == expected
    assert {t["caption"] for t in found["tables"]} >= {"AUC by sex, test", "Provenance"}


def test_csv_has_every_figure_that_may_be_printed(tables: Tables) -> None:
    frame = pd.read_csv(io.StringIO(as_csv(tables)))
    assert len(frame) == len(tables.groups)
    shown = tables.groups["shown"] | tables.groups["group"].isna()
    pd.testing.assert_series_equal(
        frame.loc[shown, "value"], tables.groups.loc[shown, "value"], check_exact=False
    )
    few = frame[frame["group"] == "X"]
    assert len(few)
    assert few[["value", "low", "high", "n", "patients", "positives"]].isna().all().all()
    # Where one count is hidden, another one is, or the total would give it away.
    own = frame[
        (frame["attribute"] == "sex") & (frame["metric"] == "auc") & frame["group"].notna()
    ]
    for _, block in own.groupby(["recipe", "split"]):
        assert block["n"].isna().sum() >= 2


def test_the_card_is_one_the_hub_reads(card: str, view: Overview, tables: Tables) -> None:
    read = ModelCard(card)
    assert read.data.pipeline_tag == "image-classification"
    assert read.data.eval_results is not None
    outcome = Outcome.load(view)
    assert outcome is not None
    own = tables.outcome[tables.outcome["recipe"] == outcome.pick]
    auc = own[(own["metric"] == "auc") & own["attribute"].isna()]["value"].iloc[0]
    known = {r.metric_name: r.metric_value for r in read.data.eval_results}
    assert known["auc"] == pytest.approx(auc, abs=1e-4)
    assert "worst_auc by sex" in known
    for head in (
        "## Verdict: ",
        "## Use",
        "## Fairness",
        "### What was not measured",
        "## Licences",
    ):
        assert head in card
    assert "sex: X" in card
    assert "no medical device" in card


def test_a_card_without_a_study_says_that_nothing_was_compared(view: Overview) -> None:
    outcome = Outcome.load(view)
    assert outcome is not None
    run = on_test(outcome.tested[outcome.pick]).run
    alone = text(Card.of_run(run, view.judge, 3))
    assert "nothing was compared" in alone
    assert "Verdict" not in alone
    assert "opened 3 time(s)" in alone
    assert ModelCard(alone).data.model_name


def test_names_are_harmless_and_nothing_is_given_away(
    md: str, data: str, card: str, tables: Tables, view: Overview
) -> None:
    for page in (md, card):
        assert HOSTILE[0] not in page
        assert "&lt;script&gt;" in page
    for page in (md, data, card, as_csv(tables)):
        assert str(view.place.out) not in page
        assert "secret" not in page
        assert not re.search(r"\bp\d{5}\b", page)
        assert "https://" not in re.sub(r"(?s)## Licences.*", "", page)


def test_files_stand_where_they_are_looked_for(tested: Place, view: Overview) -> None:
    outcome = Outcome.load(view)
    assert outcome is not None
    deployed = view.runs.folder(outcome.tested[outcome.pick].deploy)
    assert write(view, form="card") == deployed / "README.md"
    assert view.runs.get(deployed.name) is not None
    with pytest.raises(ConfigError, match="unknown format"):
        write(view, form="pdf")


def test_there_is_no_card_before_a_model(view: Overview) -> None:
    from dataclasses import replace

    with pytest.raises(StudyError, match="there is none yet"):
        Card.of_study(replace(view, attrs={}))
