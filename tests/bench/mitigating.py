"""What mitigations do to a planted bias: `python tests/bench/mitigating.py --data-root DIR`.

`planted.py` makes data on which plain training (ERM) serves one group worse by a known gap, with
validation that is biased as training is, or not. For each method the study `planted-bias.yaml`
is run with it: as many trials for each, plain training among them, over the learning rate and the
method's own settings; the one with the best worst-group AUC on validation is trained with seeds
that all methods share, and tested. Methods are compared with ERM, and with ERM under the sampler
that alignment brings along, on the same patients: by worst-group AUC with a two-level interval,
and by what it does to each group.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from machine import surroundings
from planted import ARMS, Arm, plant

from fairtune.config import settings
from fairtune.evaluation.harm import changes
from fairtune.evaluation.objectives import Objective
from fairtune.evaluation.paired import difference
from fairtune.evaluation.sampled import Sampled, Side, sample
from fairtune.experiment.finetune import Entry, finetune
from fairtune.experiment.gate import Gate
from fairtune.experiment.runs import Runs
from fairtune.experiment.stored import StoredRun
from fairtune.study.opening import open_study
from fairtune.study.outcome import HARM, _threshold
from fairtune.study.place import Place
from fairtune.study.rows import SEARCH
from fairtune.study.schema import load_study
from fairtune.study.search import make_plan, run_study
from fairtune.study.worker import StopFlag
from fairtune.training.recipe import Recipe, Seeds
from fairtune.training.session import Session

STUDY = Path(__file__).with_name("planted-bias.yaml")
WORST, AUC, GAP = (Objective.parse(t) for t in ("worst_auc@group", "auc", "auc_gap@group"))
ERM, EVEN = "ERM", "ERM, even groups"
BOTH = {"by": "both"}
KNOWN = {"attribute": "marker", "by": "both"}
METHODS: dict[str, Any] = {
    ERM: "none",
    EVEN: {"resample": {"by": "group"}},
    "resample, group and class": {"resample": BOTH},
    "resample, marker and class": {"resample": KNOWN},
    "reweight, marker and class": {"reweight": KNOWN},
    "group_dro, groups": "group_dro",
    "group_dro, marker and class": {
        "group_dro": {**KNOWN, "eta": {"float": [1e-3, 1.0], "log": True}}
    },
    "sinkhorn": "sinkhorn",
    "sinkhorn, marker": {
        "sinkhorn": {
            "attribute": "marker",
            "given": "label",
            "distance": {"one_of": ["w2", "energy"]},
            "weight": {"float": [1e-3, 10], "log": True},
        }
    },
    "bad_pairs": "bad_pairs",
    "laftr": "laftr",
    "domain_independent": "domain_independent",
    "sam": "sam",
    "swad": "swad",
    "jtt": "jtt",
    "group_temperature": "group_temperature",
    "threshold_optimizer": "threshold_optimizer",
}
"""Methods by name. `marker` tells the method what ERM takes for the disease, as an annotated
shortcut; without it the method knows the groups alone, or not even these."""


def searched(
    name: str, arm: Arm, data: Path, session: Session, trials: int
) -> tuple[Recipe, list[float]]:
    """Return the pick of a method's study and the objective of every trial."""
    words = [f"budget.trials={trials}", f"recipe.data.dataset={data / 'planted.yaml'}"]
    words.append(f"space.mitigations={json.dumps({'one_of': [METHODS[name]]})}")
    label = "".join(c if c.isalnum() else "-" for c in name)
    study = load_study(str(STUDY), words, name=f"planted-{arm}-{label}")
    plan = make_plan(study, session, None)
    place = Place(session.settings.out, study.name)
    place.folder.mkdir(parents=True, exist_ok=True)
    with open_study(place, plan, create=True) as ledger:
        run_study(ledger, plan, session, place, StopFlag())
        rows = [row for row in ledger.rows(SEARCH) if row.values is not None]
    values = [float(row.values[0]) for row in rows if row.values is not None]
    return plan.recipe_of(rows[int(np.argmax(values))]), values


def tested(
    picks: Mapping[str, Recipe], session: Session, out: Path, seeds: int
) -> dict[str, list[StoredRun]]:
    """Return the tested runs of every method, with seeds that all share."""
    fresh = tuple(Seeds(data=1000 + i, init=1000 + i) for i in range(seeds))
    entries = [Entry(name, session.resolve(recipe), fresh) for name, recipe in picks.items()]
    judge = load_study(str(STUDY)).judge
    made = finetune(entries, session, Runs(out), judge, Gate(out), command="mitigating.py")
    return {name: list(runs) for name, runs in made.runs.items()}


def figures(runs: Mapping[str, Sequence[StoredRun]], replicates: int) -> list[dict[str, Any]]:
    """Return one row per method: figures on test, and differences to both references."""
    minimum = load_study(str(STUDY)).judge.validation.minimum
    sides = {
        name: Side([r.test() for r in own], [_threshold(r) for r in own])
        for name, own in runs.items()
    }
    drawn = sample(
        sides,
        [WORST, AUC, GAP],
        [("auc", "group")],
        minimum=minimum,
        replicates=replicates,
    )
    return [row(name, drawn, runs[name][0]) for name in runs]


def row(name: str, drawn: Mapping[str, Sampled], run: StoredRun) -> dict[str, Any]:
    own = drawn[name]
    points = {str(o): {"value": own.of(o).point, "se": own.of(o).se} for o in (AUC, WORST, GAP)}
    against = {
        other: against_one(own, drawn[other]) for other in (ERM, EVEN) if other not in (name,)
    }
    members = run.recipe.to_json().get("mitigations", [])
    return {
        "method": name,
        "test": points,
        "against": against,
        "pick": {"lr": run.recipe.optim.lr, "mitigations": members},
        "said": run.mitigations,
        "seconds": run.costs["seconds"],
    }


def against_one(own: Sampled, other: Sampled) -> dict[str, Any]:
    found = {
        str(o): dataclasses.asdict(difference(own, other, o).gain(o)) for o in (WORST, AUC, GAP)
    }
    groups = changes(own, other, "group", "auc", HARM)
    return {
        **{n: {k: d[k] for k in ("value", "low", "high")} for n, d in found.items()},
        "groups": [dataclasses.asdict(change) for change in groups],
    }


def measure(options: argparse.Namespace, folder: Path) -> Iterator[dict[str, Any]]:
    """Yield what each arm gave."""
    out = Path(options.work) if options.work else folder
    for arm in options.arms:
        data = out / f"data-{arm}"
        frame = plant(
            options.data_root, data, strength=options.strength, arm=arm, seed=options.seed
        )
        held = dataclasses.replace(settings(), out=out / "results", data=(data,))
        session = Session(held, data_roots=(data,))
        picks: dict[str, Recipe] = {}
        trials: dict[str, list[float]] = {}
        for name in options.methods:
            began = time.perf_counter()
            picks[name], trials[name] = searched(name, arm, data, session, options.trials)
            shown = ", ".join(f"{v:.3f}" for v in trials[name])
            spent = time.perf_counter() - began
            sys.stderr.write(f"{arm}: {name}: {shown} ({spent:.0f} s)\n")
        runs = tested(picks, session, held.out, options.seeds)
        rows = figures(runs, options.replicates)
        for one in rows:
            one["validation"] = trials[one["method"]]
        counts = frame.groupby(["split", "group"]).size()
        yield {
            "arm": arm,
            "rows": rows,
            "n": {f"{split} {group}": int(n) for (split, group), n in counts.items()},
        }


def main() -> None:
    """Measure, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, nargs="?", default=Path("mitigating.json"))
    parser.add_argument("--data-root", type=Path, required=True, help="where HAM10000 lies")
    parser.add_argument("--work", help="folder that is kept, so that a stopped run goes on")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--trials", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--strength", type=float, default=0.95)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--replicates", type=int, default=1000)
    options = parser.parse_args()
    missing = {ERM, EVEN} - set(options.methods)
    if missing:
        parser.error(f"everything is compared with {sorted(missing)}: add it to --methods")
    with tempfile.TemporaryDirectory() as folder:
        arms = list(measure(options, Path(folder)))
    found = {
        **surroundings("mitigating.py"),
        "strength": options.strength,
        "seed": options.seed,
        "trials": options.trials,
        "seeds": options.seeds,
        "arms": arms,
    }
    options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
