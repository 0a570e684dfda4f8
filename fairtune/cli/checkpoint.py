"""`fairtune evaluate`, `fairtune predict`, and `fairtune models export`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fairtune.cli.options import DataRoot, Out, RunsAt

if TYPE_CHECKING:
    from fairtune.experiment.checkpoint import Restored

FORMATS = ("table", "json", "csv")
EXPORTS = ("timm", "safetensors", "peft")
Checkpoint = Annotated[
    Path, typer.Argument(help="Run folder, as `finetune` prints it, or the run's key.")
]
METRICS = ["auc", "auprc", "tpr", "fpr", "ece", "brier"]


def evaluate(
    checkpoint: Checkpoint,
    dataset: Annotated[str, typer.Option("--dataset", help="Dataset to score it on.")],
    split: Annotated[str, typer.Option("--split", help="train, val, test or all.")] = "test",
    target: Annotated[
        str | None, typer.Option("--target", help="Target (default: the checkpoint's).")
    ] = None,
    attribute: Annotated[
        list[str] | None,
        typer.Option("--attribute", help="Attributes (default: the checkpoint's)."),
    ] = None,
    metric: Annotated[
        list[str] | None, typer.Option("--metric", help="Metrics; several times.")
    ] = None,
    fmt: Annotated[str, typer.Option("--format", help="table, json or csv.")] = "table",
    out: Out = None,
    runs: RunsAt = None,
    data_root: DataRoot = None,
) -> None:
    """Score a checkpoint by group on a dataset; rows it was fitted on are left out and counted."""
    from fairtune.cli.options import open_session, out_folder, runs_of, this_command
    from fairtune.errors import ConfigError
    from fairtune.experiment.apply import evaluate as run_evaluate
    from fairtune.experiment.checkpoint import open_run
    from fairtune.experiment.gate import Gate

    if fmt not in FORMATS:
        raise ConfigError("unknown format", where="--format", found=fmt, allowed=FORMATS)
    found = run_evaluate(
        open_run(checkpoint, runs_of(out, runs)),
        open_session(data_root),
        dataset=dataset,
        split=split,
        target=target,
        attributes=attribute or (),
        metrics=metric or METRICS,
        gate=Gate(out_folder(out)),
        command=this_command(),
    )
    for note in found.notes:
        print(f"note: {note}", file=sys.stderr)
    columns = ["metric", "attribute", "group", "value", "low", "high", "n", "positives"]
    if fmt == "json":
        print(found.frozen[columns].to_json(orient="records", indent=1))
        return
    if fmt == "csv":
        print(found.frozen[columns].to_csv(index=False), end="")
        return
    print(f"{found.dropped} rows left out: image or patient was in training or validation")
    if found.openings is not None:
        print(f"the test split has been opened {found.openings} time(s) from this folder")
    print("at the threshold frozen on validation:")
    print(found.frozen[columns].round(3).astype(object).fillna("").to_string(index=False))
    print("at a threshold fitted on these rows (cross-fitted):")
    print(found.refitted[columns].round(3).astype(object).fillna("").to_string(index=False))


def predict(
    checkpoint: Checkpoint,
    images: Annotated[
        list[Path],
        typer.Argument(help="Image files or folders, or one CSV with a column `image`."),
    ],
    to: Annotated[Path | None, typer.Option("--to", help="CSV to write (default: print).")] = None,
    out: Out = None,
    runs: RunsAt = None,
    data_root: DataRoot = None,
) -> None:
    """Score images without labels."""
    from fairtune.cli.options import check_target, open_session, runs_of
    from fairtune.data.files import image_files
    from fairtune.experiment.apply import predict as run_predict
    from fairtune.experiment.apply import without_groups
    from fairtune.experiment.checkpoint import open_run

    if to is not None:
        check_target(to, "--to")
    run = open_run(checkpoint, runs_of(out, runs))
    if (told := without_groups(run)) is not None:
        print(f"note: {told}", file=sys.stderr)
    frame = run_predict(run, open_session(data_root), image_files(images))
    if to is None:
        print(frame.to_csv(index=False), end="")
        return
    from fairtune import store

    store.write_atomic(to, frame.to_csv(index=False).encode())
    print(f"{len(frame)} images: {to}")


def export(
    checkpoint: Checkpoint,
    to: Annotated[
        Path, typer.Option("--to", help="safetensors file to write; for peft a folder.")
    ],
    fmt: Annotated[
        str,
        typer.Option(
            "--format",
            help="timm: one merged state dict. safetensors: the same of any network, by its own "
            "names. peft: an adapter folder.",
        ),
    ] = "timm",
    out: Out = None,
    runs: RunsAt = None,
    data_root: DataRoot = None,
) -> None:
    """Write a checkpoint as one plain state dict, or as an adapter that peft alone loads."""
    from fairtune import store
    from fairtune.cli.options import check_target, open_session, runs_of
    from fairtune.errors import ConfigError
    from fairtune.experiment.checkpoint import (
        export_bytes,
        export_peft,
        load_words,
        merged,
        open_run,
        restore,
    )

    if fmt not in EXPORTS:
        raise ConfigError("unknown format", where="--format", found=fmt, allowed=EXPORTS)
    check_target(to / "adapter_config.json" if fmt == "peft" else to, "--to")
    run = open_run(checkpoint, runs_of(out, runs))
    if run.post:
        print(
            "note: post-processing is no part of the network: what is written gives the scores "
            f"before {' and '.join(step.name for step in run.post)}",
            file=sys.stderr,
        )
    restored = restore(run, open_session(data_root))
    spec, size = restored.ground.spec, restored.ground.pack.image_size
    outputs = restored.ground.outputs
    if fmt == "peft":
        export_peft(restored, to)
        _beside(restored, to / "edit.safetensors")
        print(
            f"{to}: load with peft.PeftModel.from_pretrained(timm.create_model("
            f"'{spec.architecture}', num_classes={outputs}, img_size={size}), folder) on the "
            "pretrained weights that the run started from"
        )
        return
    loading = load_words(restored, fmt)
    tensors = merged(restored)
    store.write_atomic(to, export_bytes(tensors, restored))
    _beside(restored, to.with_suffix(".edit.safetensors"))
    print(f"{to}: {len(tensors)} tensors; {loading}")


def _beside(restored: Restored, path: Path) -> None:
    """Write the edit that the network expects in every image, and say so."""
    if restored.edit is None:
        return
    from fairtune import store
    from fairtune.editing.stored import to_bytes

    store.write_atomic(path, to_bytes(restored.edit))
    print(
        "note: the network was trained on edited images: add the tensor 'edit' of "
        f"{path} to every image in [0, 1] before it is normalised",
        file=sys.stderr,
    )


def register(app: typer.Typer) -> None:
    """Register the commands."""
    from fairtune.cli.models import group

    app.command()(evaluate)
    app.command()(predict)
    group(app).command()(export)
