"""How `--help` of the commands is laid out: options in panels, examples at the end."""

from __future__ import annotations

from typing import Any, Final

from typer.core import TyperCommand, TyperOption

from ntkcli.options import with_plugins

LONG: Final = 12
"""Commands with more options than this show them in panels; shorter lists are easier to read in one piece."""
PANELS: Final = {
    "Input": "data columns split domain-split pool-split on-error max-length thinking text-as trust-remote-code "
    "allow-overlap text prompt completion row",
    "Features": "adapter feature rows positions pooling probe probes layers projection dim seed adapter-seed adam "
    "losses store-dtype",
    "Score": "pool method domain group-by across centre subspace whiten residual k match-length combine compare preset",
    "Selection": "n coarse exponent max-per-source min-per-source token-budget min-tokens max-tokens tokens-of dedup "
    "exclude must-include only against leaks",
    "Training": "then epochs max-tokens match-tokens max-steps match-steps lr lr-find lr-rates lr-steps "
    "schedule warmup warmup-epochs rank alpha target-modules init-adapter batch-size seeds hold-out hold-out-of "
    "patience loss-per average-weights "
    "pack checkpoint-steps keep-optimizer keep-checkpoints",
    "Evaluation": "baseline retain scorer normalise max-new-tokens answer-pattern num-fewshot limit "
    "apply-chat-template per-class arms draws sizes equalise task folds by rounds",
    "Check": "verify repair",
    "Validation": "design bins subsets domain-repeat oracle keep-runs",
    "Sample": "domain-rows dims near run eval",
    "Compute": "dtype device batch-tokens part-rows shard shard-model ray gradient-checkpointing",
    "Output": "export format export-scores explain bottom recipe prefix force plot report-to "
    "push-to-hub public dry-run json quiet verbose",
}
"""Panel → its options, without dashes. An option with the same name is in the same panel in every command."""
EXCEPTIONS: Final = {
    ("featurize", "rank"): "Features",
    ("featurize", "target-modules"): "Features",
    ("select", "max-tokens"): "Selection",
    ("finetune", "seed"): "Training",
    ("score", "seed"): "Score",
    ("score", "feature"): "Score",
    ("score", "rows"): "Score",
    ("arms", "domain-repeat"): "Training",
    ("arms", "oracle"): "Selection",
    ("select", "match-tokens"): "Selection",
    ("select", "candidates"): "Selection",
    ("select", "method"): "Selection",
    ("select", "feature"): "Selection",
    ("select", "domain"): "Selection",
    ("select", "centre"): "Selection",
    ("validate", "rows"): "Validation",
    ("query", "n"): "Output",
    ("diagnose", "score"): "Input",
    ("diagnose", "pool"): "Input",
    ("diagnose", "domain"): "Input",
    ("diagnose", "model"): "Input",
    ("diagnose", "run"): "Input",
    ("diagnose", "eval"): "Input",
    ("diagnose", "feature"): "Input",
    ("diagnose", "tokens-of"): "Input",
    ("diagnose", "rows"): "Sample",
    ("diagnose", "n"): "Sample",
    ("diagnose", "seed"): "Sample",
    ("info", "model"): "Input",
    ("info", "rows"): "Input",
}
"""(Command, option) → panel, where one word has another use in that command."""
_PANEL_OF: Final = {option: panel for panel, names in PANELS.items() for option in names.split()}
REQUIRED: Final = "Required"
ARGUMENTS: Final = "ntksel.arguments"
"""Where a command finds the words that it was given, in its context's `meta`."""


class Command(TyperCommand):
    """A command whose options are shown in panels, if it has many."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        options = [each for each in self.params if isinstance(each, TyperOption)]
        if len(options) > LONG:
            for option in options:
                option.rich_help_panel = panel_of(self.name or "", option)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the words that the command was given, and keep them: `--ray` gives them to other processes."""
        ctx.meta[ARGUMENTS] = list(args)
        return super().parse_args(ctx, args)

    def format_help(self, *arguments: Any) -> None:
        """The help, with the names of plug-ins where an option takes one."""
        with_plugins(self.params)
        super().format_help(*arguments)


def panel_of(command: str, option: TyperOption) -> str | None:
    """The panel that an option is shown in; None for the panel without a name."""
    if option.required:
        return REQUIRED
    word = option.opts[0].lstrip("-")
    return EXCEPTIONS.get((command, word)) or _PANEL_OF.get(word)


def examples(*commands: str) -> str:
    """The end of a help text: a command per line."""
    return "\n\n".join(("Examples:", *commands))
