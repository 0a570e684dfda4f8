"""Losses of the pick by epoch: has it converged, does it overfit?"""

from __future__ import annotations

from fairtune.report.figure import MUTED, PICK, Figure, blank
from fairtune.report.tables import Tables


def figure(tables: Tables) -> Figure | None:
    """Draw training and validation loss per seed; None for a readout that is solved at once."""
    epochs = tables.epochs
    if not len(epochs) or epochs["epoch"].max() < 2:
        return None
    plot = blank(300)
    for seed, own in epochs.groupby("seed"):
        for name, words, color, dash in (
            ("val_loss", "validation", PICK, "solid"),
            ("train_loss", "training", MUTED, "dot"),
        ):
            plot.add_scatter(
                x=own["epoch"].tolist(),
                y=own[name].tolist(),
                mode="lines+markers",
                line={"color": color, "dash": dash, "width": 2},
                marker={"size": 5},
                name=words,
                legendgroup=words,
                showlegend=bool(seed == 1),
                hovertemplate=f"epoch %{{x}}: %{{y:.3f}}<extra>{words}, seed {seed}</extra>",
            )
    plot.update_xaxes(title_text="epoch", dtick=max(1, int(epochs["epoch"].max()) // 12))
    plot.update_yaxes(title_text="loss")
    return Figure(
        "learning",
        "Training of the pick",
        "Look at whether the solid lines have levelled off: if they still fall, more epochs may "
        "help every recipe; if they rise while the dotted ones fall, the model learns by heart.",
        f"Training and validation loss by epoch for {epochs['seed'].nunique()} seed(s).",
        plot,
        epochs[["seed", "epoch", "train_loss", "val_loss"]],
    )
