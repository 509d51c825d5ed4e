"""Options of training that finetune, validate and arms share: one spelling and one help text each."""

from __future__ import annotations

from typing import Annotated

import typer

from ntkcli.choices import LossPer, Schedule

LearningRate = Annotated[
    float | None, typer.Option("--lr", help="Peak learning rate.", show_default="by the model's width, 0.001 at most")
]
ScheduleOption = Annotated[
    Schedule, typer.Option("--schedule", help="Schedule of the learning rate after the warm-up.")
]
Warmup = Annotated[float, typer.Option(help="Share of the steps in which the learning rate rises.")]
Rank = Annotated[int | None, typer.Option(min=1, help="Rank of the LoRA adapter.", show_default="16")]
Alpha = Annotated[float | None, typer.Option(help="Alpha (scaling) of the LoRA adapter.", show_default="2 x rank")]
TargetModules = Annotated[
    str | None, typer.Option(help="Layers to adapt: all-linear, or a list of names.", show_default="all-linear")
]
BatchSize = Annotated[int, typer.Option(min=1, help="Rows per training step.")]
BatchTokens = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Tokens computed at a time; the gradient of a step is summed over such pieces.",
        show_default="what fits",
    ),
]
GradientCheckpointing = Annotated[
    bool, typer.Option("--gradient-checkpointing", help="Use less memory, for about a third more time.")
]
LOSS_PER = (
    "What the loss is a mean over: all supervised tokens of a step, or its rows, so that long answers weigh no more "
    "than short ones."
)
LossPerOption = Annotated[LossPer, typer.Option("--loss-per", help=LOSS_PER)]
AVERAGE_WEIGHTS = "Keep the mean of the weights after each of the last quarter of the steps."
