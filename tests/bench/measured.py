"""Write docs/measured.md: `python tests/bench/measured.py STUDY/metrics.json --bench bench.json`.

Every figure of that page comes from these files; none is typed by hand. A section whose file is
not given stays as it stands on the page, so that one bench can be run at a time.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cluster_page
import editing_page
import edits_page
import evidence_page
import language_page
import mitigating_page
from masks_page import section

WORDS = {
    "trial": "one trial",
    "bare_loop": "bare torch loop: same steps, AUC by group after every epoch",
    "trial_overhead": "trial against the bare loop",
    "later_trial_start": "from the call of a later trial to its first step",
    "trial_peak": "peak memory of a process that makes one trial",
    "bare_peak": "peak memory of a process with the bare loop",
    "extra_memory": "what a trial's process takes beyond the bare loop's",
    "step_fp32": "one step in fp32",
    "step_bf16": "one step in bf16",
    "bf16_gain": "bf16 against fp32",
    "help": "`fairtune --help`",
    "bootstrap": "intervals by Bayesian bootstrap",
}
NONE = "–"
ORDER = (
    "Speed",
    "Inner loop",
    "Whole jobs",
    "Samplers and mask spaces",
    "Augmentation",
    "Adaptation methods",
    "Mitigations on a planted bias",
    "Steps with mitigations",
    "Distances between scores",
    edits_page.TITLE,
    editing_page.TITLE,
    language_page.TITLE,
    "Coverage of intervals",
    "What confirming is worth",
    "Many workers on one PostgreSQL",
)
"""Headings of the sections, in their order; those of studies come after them."""


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description="Write docs/measured.md from measured files.")
    parser.add_argument("--bench", type=Path, help="bench.json that run.py wrote")
    parser.add_argument("studies", nargs="*", type=Path, help="metrics.json of finished studies")
    parser.add_argument("--augment", type=Path, help="augment.json that augment.py wrote")
    parser.add_argument("--out", type=Path, default=Path("docs/measured.md"), help="page to write")
    parser.add_argument("--masks", type=Path, help="JSON that masks.py wrote")
    parser.add_argument("--loop", type=Path, help="loop.json that loop.py wrote")
    parser.add_argument("--whole", type=Path, help="whole.json that whole.py wrote")
    parser.add_argument("--methods", type=Path, help="methods.json that methods.py wrote")
    parser.add_argument("--coverage", type=Path, help="coverage.json that covering.py wrote")
    parser.add_argument("--picking", type=Path, help="picking.json that picking.py wrote")
    parser.add_argument(
        "--mitigations", type=Path, nargs="+", help="JSON that mitigating.py wrote, all arms"
    )
    parser.add_argument(
        "--mitigations-page",
        type=Path,
        default=Path("docs/mitigations.md"),
        help="page whose marked block is filled with what --mitigations says in brief",
    )
    parser.add_argument("--steps", type=Path, help="JSON that mitigation_steps.py wrote")
    parser.add_argument("--transport", type=Path, help="JSON that transport.py wrote")
    parser.add_argument("--edits", type=Path, help="JSON that edits.py wrote")
    parser.add_argument("--editing", type=Path, help="JSON that editing.py wrote")
    parser.add_argument(
        "--edits-page",
        type=Path,
        default=Path("docs/edits.md"),
        help="page whose marked blocks are filled with what --edits and --editing say in brief",
    )
    parser.add_argument("--language", type=Path, help="JSON that language.py wrote")
    parser.add_argument(
        "--language-page",
        type=Path,
        default=Path("docs/vision-language.md"),
        help="page whose marked block is filled with what --language says in brief",
    )
    parser.add_argument(
        "--cluster", type=Path, nargs="+", help="JSON that cluster.py wrote, one per sampler"
    )
    parser.add_argument(
        "--storages-page",
        type=Path,
        default=Path("docs/storages.md"),
        help="page whose marked block is filled with what the first --cluster says in brief",
    )
    parser.add_argument("--reading", type=Path, help="JSON that reading.py wrote")
    parser.add_argument(
        "--cluster-page",
        type=Path,
        default=Path("docs/cluster.md"),
        help="page whose marked block says how far --cluster and --reading go",
    )
    parser.add_argument("--readme", type=Path, help="page whose marked blocks are filled")
    options = parser.parse_args()
    if options.readme is not None and options.bench is None and options.loop is None:
        parser.error("--readme shows the figures of --bench and of --loop: give one of them")
    bench = None if options.bench is None else read(options.bench)
    studies = [json.loads(path.read_text()) for path in options.studies]
    lines = [] if bench is None else speed(bench)
    if options.loop is not None:
        lines += loop(read(options.loop))
    if options.whole is not None:
        lines += whole(read(options.whole))
    if options.masks is not None:
        lines += section(read(options.masks))
    if options.augment is not None:
        lines += augmentation(read(options.augment))
    if options.methods is not None:
        lines += methods(read(options.methods))
    if options.coverage is not None:
        lines += evidence_page.coverage(read(options.coverage))
    if options.picking is not None:
        lines += evidence_page.picking(read(options.picking))
    if options.mitigations is not None:
        lines += mitigating_page.planted([read(path) for path in options.mitigations])
    if options.steps is not None:
        lines += mitigating_page.steps(read(options.steps))
    if options.transport is not None:
        lines += mitigating_page.distances(read(options.transport))
    if options.edits is not None:
        lines += edits_page.searches(read(options.edits))
    if options.editing is not None:
        lines += editing_page.real(read(options.editing))
    if options.language is not None:
        lines += language_page.pairs(read(options.language))
    if options.cluster is not None:
        lines += cluster_page.cluster([read(path) for path in options.cluster])
    lines += [line for study in studies for line in result(study)]
    before = sections(options.out.read_text().splitlines()) if options.out.exists() else {}
    page = [*head(), *(line for part in ordered(before | sections(lines)) for line in part)]
    options.out.write_text("\n".join(page).rstrip() + "\n")
    if options.mitigations is not None:
        told = mitigating_page.brief([read(path) for path in options.mitigations])
        mark(options.mitigations_page, "measured mitigations", told)
    if options.edits is not None:
        mark(options.edits_page, "measured edits", edits_page.brief(read(options.edits)))
    if options.editing is not None:
        told = editing_page.brief(read(options.editing))
        mark(options.edits_page, "measured edits on images", told)
    if options.language is not None:
        mark(options.language_page, "measured pairs", language_page.brief(read(options.language)))
    if options.cluster is not None:
        told = cluster_page.brief(read(options.cluster[0]))
        mark(options.storages_page, "measured storage", told)
    if options.cluster is not None and options.reading is not None:
        told = cluster_page.reach(read(options.cluster[0]), read(options.reading))
        mark(options.cluster_page, "measured cluster", told)
    if options.readme is not None and bench is not None:
        mark(options.readme, "measured", short(bench, WORDS, target, "make bench"))
    if options.readme is not None and options.loop is not None:
        found = short(read(options.loop), LOOP, least, "make bench-loop")
        mark(options.readme, "measured loop", found)


def sections(lines: Sequence[str]) -> dict[str, list[str]]:
    """Return the lines of every section by its heading; the top of the page is none."""
    found: dict[str, list[str]] = {}
    current: list[str] | None = None
    for line in lines:
        if line.startswith("## "):
            current = found.setdefault(line.removeprefix("## "), [])
        if current is not None:
            current.append(line)
    return {name: [*"\n".join(part).rstrip().split("\n"), ""] for name, part in found.items()}


def ordered(found: Mapping[str, list[str]]) -> list[list[str]]:
    """Return the sections in the order of the page; studies last, as they came."""
    known = [name for name in ORDER if name in found]
    return [found[name] for name in (*known, *(name for name in found if name not in ORDER))]


def short(
    measured: Mapping[str, Any],
    names: Mapping[str, str],
    against: Callable[[Mapping[str, Any]], str],
    by: str,
) -> list[str]:
    """Return the figures with a target, and the machine, for the README."""
    machine, matter = measured["machine"], measured["matter"]
    unit = "rounds" if "rounds" in measured else "repeats"
    rows = [
        [
            names.get(name, name.replace("_", " ")),
            f"{number(f['value'])} {f['unit']}".strip(),
            against(f),
        ]
        for name, f in measured["figures"].items()
        if f["target"] is not None
    ]
    return [
        *table(["what", "measured", "target"], rows),
        "",
        f"{machine['cpu']}, {machine['cores']} cores; {matter['model']} at "
        f"{matter['image_size']} px, {matter['precision']}, {matter['train_rows']:,} training and "
        f"{matter['val_rows']:,} validation images, medians of {measured[unit]} {unit}. Written "
        f"by `{by}`; all figures, with command and commit: [docs/measured.md](docs/measured.md).",
    ]


def mark(page: Path, block: str, lines: Sequence[str]) -> None:
    """Replace what stands between the two marks of a block of `page`."""
    start, end = f"<!-- {block} -->", f"<!-- /{block} -->"
    text = page.read_text()
    before, found, rest = text.partition(start)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise SystemExit(f"{page} has no block between {start} and {end}")
    page.write_text("\n".join([before + start, *lines, end + after]))


def read(path: Path) -> dict[str, Any]:
    """Return what a script measured; a quick run is refused."""
    measured: dict[str, Any] = json.loads(path.read_text())
    if measured.get("quick"):
        raise SystemExit(f"{path} was made with --quick, which measures nothing real")
    return measured


def head() -> list[str]:
    """Return the top of the page."""
    return [
        "# Measured",
        "",
        "Written by `tests/bench/measured.py` from the files of `make bench` and of finished",
        "studies; a figure that is not in them is not on this page.",
        "",
    ]


def speed(bench: Mapping[str, Any]) -> list[str]:
    """Return the section of `bench.json`."""
    machine, matter = bench["machine"], bench["matter"]
    versions = ", ".join(f"{name} {version}" for name, version in bench["versions"].items())
    rows = [
        [WORDS[name], number(f["value"]), f["unit"], target(f)]
        for name, f in bench["figures"].items()
    ]
    return [
        "## Speed",
        "",
        f"Medians of {bench['repeats']} runs (peak memory: of at most two), the two sides of a",
        "comparison in turns.",
        "",
        f"- command: `{bench['command']}`",
        f"- commit: `{bench['commit'] or 'unknown'}`"
        + (" (files differed from it)" if (bench["commit"] or "").endswith("+") else ""),
        f"- machine: {machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads, "
        f"{machine['system']}, load {machine['load']} when it ended",
        f"- versions: {versions}",
        f"- run: {matter['model']} ({matter['weights']} weights) at {matter['image_size']} px on "
        f"{matter['data']}, {matter['train_rows']} training and {matter['val_rows']} validation "
        f"images, mask `{matter['mask']}`, {matter['epochs']} epoch(s) of batches of "
        f"{matter['batch_size']}, {matter['precision']}",
        "",
        *table(["what", "measured", "unit", "target"], rows),
        "",
    ]


LOOP = {
    "plain_images": "plain loop: PIL in a DataLoader, full backward pass, fp32",
    "random_masks": "random `auto_peft1` masks",
    "last_3_blocks": "masks over the last 3 blocks, prefix kept",
    "readout_again": "linear readout from the second trial on",
}
"""Figures of loop.json in words; others stand under their own names."""


def loop(measured: Mapping[str, Any]) -> list[str]:
    """Return the section of `loop.json`."""
    matter = measured["matter"]
    rows = [
        [LOOP.get(name, name.replace("_", " ")), number(f["value"]), f["unit"], least(f)]
        for name, f in measured["figures"].items()
    ]
    return [
        "## Inner loop",
        "",
        f"Medians of {measured['rounds']} rounds in which every side makes one epoch of the same "
        "images.",
        "",
        *source(measured),
        f"- run: {matter['model']} at {matter['image_size']} px on {matter['data']}, "
        f"{matter['train_rows']} training and {matter['val_rows']} validation images, batches of "
        f"{matter['batch_size']}, {matter['precision']}",
        "",
        *table(["what", "measured", "unit", "target"], rows),
        "",
    ]


def turns(measured: Mapping[str, Any]) -> list[str]:
    """Return where seconds were taken that were taken apart, pass by pass in turn."""
    if "seconds" not in measured:
        return []
    made = measured["seconds"]
    return [
        f"- an epoch's seconds: medians, methods in turns; commit `{made['commit']}`, "
        f"load {made['machine']['load']} when it ended"
    ]


WHOLE = {
    "plain": "plain loop, all recipes",
    "ours": "the same recipes by `run`, empty cache",
    "study": "a whole search with as many trials, empty cache",
    "same_recipes": "the same recipes",
    "whole_study": "a whole search",
    "confirmed_plain": "confirmed objective of the plain loop's best",
    "confirmed_study": "confirmed objective of the search's best",
    "difference": "difference of the two",
    "error": "its standard error over seeds",
    "not_lower": "difference plus its standard error",
}
"""Figures of whole.json in words."""


def whole(measured: Mapping[str, Any]) -> list[str]:
    """Return the section of `whole.json`."""
    matter = measured["matter"]
    rows = [
        [WHOLE[name], number(f["value"]), f["unit"], least(f)]
        for name, f in measured["figures"].items()
    ]
    turns = [
        [
            str(i),
            *(number(turn[side]) for side in ("plain", "ours", "study")),
            *(f"{number(turn[name])} x" for name in ("same_recipes", "whole_study")),
            f"{turn['difference']:+.3f} ± {turn['error']:.3f}",
            ", ".join(f"{count} {state}" for state, count in turn["trials"].items()),
        ]
        for i, turn in enumerate(measured["turns"], start=1)
    ]
    return [
        "## Whole jobs",
        "",
        f"Medians of {measured['repeats']} repeats with other seeds: {matter['recipes']} random "
        f"`auto_peft1` recipes of {matter['epochs']} epochs by a plain loop (PIL in a DataLoader, "
        f"{matter['attention_of_plain']} attention, full backward pass, fp32, scored after every "
        "epoch) and by `run`, in turns, and a search "
        f"with as many trials over masks of the last blocks ({words(matter['masks_of_study'])}), "
        "the same learning rates, asha after every epoch, anchors, no baselines. The best of the "
        f"plain loop and of the search are trained again with {matter['fresh_seeds']} fresh "
        f"seeds, which is not counted, and compared by `{matter['objective']}` on validation.",
        "",
        *source(measured),
        f"- run: {matter['model']} at {matter['image_size']} px on {matter['data']} "
        f"({matter['target']}), {matter['train_rows']} training and {matter['val_rows']} "
        f"validation images, batches of {matter['batch_size']}, {matter['precision']}",
        "",
        *table(["what", "measured", "unit", "target"], rows),
        "",
        *table(
            [
                "repeat",
                "plain, s",
                "same recipes, s",
                "search, s",
                "plain / same",
                "plain / search",
                "search less plain",
                "trials",
            ],
            turns,
        ),
        "",
    ]


def words(names: Sequence[str]) -> str:
    """Return names as code, with commas."""
    return ", ".join(f"`{name}`" for name in names)


def methods(measured: Mapping[str, Any]) -> list[str]:
    """Return the section of `methods.json`."""
    matter = measured["matter"]
    rows = []
    for one in measured["methods"]:
        first, second = one["seeds"]
        rows.append(
            [
                f"`{one['method']}`",
                f"`{one['mask']}`",
                f"{100 * one['trainable_share']:.2f}",
                number(one["seconds_per_epoch"]),
                f"{one['lr']:g}",
                *(f"{interval(first[k])}; {number(second[k]['value'])}" for k in FIGURES),
            ]
        )
    return [
        "## Adaptation methods",
        "",
        f"Validation figures after {matter['epochs']} epochs at the learning rate, of three, with "
        "the best validation AUC: first seed with 95 % interval; second seed. The best of three "
        "is too good by a little for every method alike.",
        "",
        *source(measured),
        *turns(measured),
        f"- run: {matter['model']} ({matter['weights']} weights) at {matter['image_size']} px on "
        f"{matter['data']} ({matter['target']}), {matter['train_rows']} training and "
        f"{matter['val_rows']} validation images, batches of {matter['batch_size']}, "
        f"{matter['precision']}",
        "",
        *table(
            [
                "method",
                "mask",
                "trains, %",
                "s/epoch",
                "lr",
                "AUC",
                f"worst AUC by {matter['attribute']}",
            ],
            rows,
        ),
        "",
    ]


FIGURES = ("auc", "worst_auc")


def interval(figure: Mapping[str, float]) -> str:
    """Return a value with its interval."""
    ends = ", ".join(number(figure[name]) for name in ("low", "high"))
    return f"{number(figure['value'])} [{ends}]"


def source(measured: Mapping[str, Any]) -> list[str]:
    """Return command, commit and machine of a measurement."""
    machine = measured["machine"]
    return [
        f"- command: `{measured['command']}`",
        f"- commit: `{measured['commit'] or 'unknown'}`",
        f"- machine: {machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads, "
        f"{machine['system']}, load {machine['load']} when it ended",
    ]


def least(figure: Mapping[str, Any]) -> str:
    """Return a target from which larger is better, and whether it is met."""
    if figure["target"] is None:
        return NONE
    return f"at least {number(figure['target'])}: {'met' if figure['met'] else '**missed**'}"


KINDS = {
    "none": "none",
    "copies": "`medical`, 4 fixed copies",
    "free": "`medical`, drawn anew",
}


def augmentation(measured: Mapping[str, Any]) -> list[str]:
    """Return the section of `augment.json`."""
    matter = measured["matter"]
    ranges = ", ".join(f"{name} {value:g}" for name, value in matter["ranges"].items() if value)
    gains = {(one["mask"], one["augment"]): one for one in measured["differences"]}
    rows = []
    for one in measured["rows"]:
        gain = gains.get((one["mask"], one["augment"]))
        said = "–" if gain is None else "{value:+.3f} ({low:+.3f} to {high:+.3f})".format(**gain)
        auc, worst = number(one["auc"]), number(one["worst_auc"])
        speed_ = number(one["images_per_second"])
        rows.append([f"`{one['mask']}`", KINDS[one["augment"]], auc, said, worst, speed_])
    columns = [
        "mask",
        "augmentation",
        "AUC",
        "against none (95 %)",
        "worst AUC by age",
        "images/s",
    ]
    return [
        "## Augmentation",
        "",
        f"Validation figures of the last epoch, means of {measured['seeds']} seeds; the interval "
        "draws patients and seeds again. Images/s count validation too.",
        "",
        f"- command: `{measured['command']}`",
        f"- commit: `{measured['commit'] or 'unknown'}`",
        f"- run: {matter['model']} ({matter['weights']} weights) at {matter['image_size']} px on "
        f"{matter['data']}, {matter['train_rows']} training and {matter['val_rows']} validation "
        f"images, {matter['epochs']} epochs of batches of {matter['batch_size']}, "
        f"{matter['precision']}; `medical` is here: flip {matter['flip']}, {ranges}",
        "",
        *table(columns, rows),
        "",
    ]


def result(study: Mapping[str, Any]) -> list[str]:
    """Return the section of one study's `metrics.json`: the run to deploy of every recipe."""
    verdict, objective = study["verdict"], study["objective"]
    attribute = objective.partition("@")[2] or None
    rows = [
        [
            label + (" (pick)" if label == study["pick"] else ""),
            row["group"] or "all",
            number(row["value"]),
            f"{number(row['low'])} to {number(row['high'])}",
            str(row["n"]),
            str(row["positives"]),
        ]
        for label, recipe in study["recipes"].items()
        for row in groups(recipe["test"], attribute)
    ]
    return [
        f"## Study {study['study']}",
        "",
        f"Data `{study['dataset']}`, model `{study['model']}` at {study['image_size']} px, "
        f"study seed {study['seed']}, {study['trials']} trials. Searched for `{objective}` on "
        f"validation (best confirmed {number(study['validation']['naive'])}, corrected for the "
        f"choice of recipe and group {number(study['validation']['corrected'])}); "
        f"the test split has been opened {study['openings']} time(s). Does the pick serve it "
        "better than the baselines? "
        f"**{verdict['answer']}**: {verdict['why']}.",
        "",
        "AUC on test of the run to deploy, with 95 % intervals by patient:",
        "",
        *table(["recipe", "group", "AUC", "95 %", "images", "positives"], rows),
        "",
    ]


def groups(
    rows: Sequence[Mapping[str, Any]], attribute: str | None
) -> Iterator[Mapping[str, Any]]:
    """Yield the AUC of everybody and of every large enough group of `attribute`."""
    for row in rows:
        group_of = row["attribute"] if row["group"] else None
        wanted = row["attribute"] is None or (group_of is not None and group_of == attribute)
        if row["metric"] == "auc" and wanted and row["value"] is not None:
            yield row


def number(value: float | None) -> str:
    """Return three significant digits, or a dash for what could not be computed."""
    if value is None:
        return NONE
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:#.3g}".rstrip(".")


def target(figure: Mapping[str, Any]) -> str:
    """Return the target and whether it is met."""
    if figure["target"] is None:
        return NONE
    return f"at most {number(figure['target'])}: {'met' if figure['met'] else '**missed**'}"


def table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a Markdown table."""
    return [
        f"| {' | '.join(names)} |",
        f"|{'---|' * len(names)}",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


if __name__ == "__main__":
    main()
