"""The plan of a comparison: its arms, their names and runs, one budget. Pure; runs nothing and reads no file.

An arm is one way to spend the budget; what every arm answers stands in docs/arms.md. Artefacts are named as in the
README, so that what a store has already is found.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from ntkcli import kernel_presets
from ntkcli.choices import Equalise, TextAs, checked
from ntkcli.errors import UsageError
from ntkcli.seeds import check_training_seed
from ntkcli.steps.training.rows import MOST_TIMES

ARMS: Final[dict[str, str]] = {
    "base": "the model without training",
    "domain": "the domain's rows alone",
    "domain-steps": "the domain's rows alone, for as many steps as the selected arm",
    "domain-tokens": "the domain's rows alone, for as many tokens as the selected arm",
    "random": "the domain and random rows of the pool, drawn again for each run",
    "random-length": "the same, as long in tokens as the selected rows",
    "oracle": "the domain and rows known to be right (--oracle), drawn again for each seed",
    "embedding": "the domain and the pool's nearest rows by embedding",
    "preselect-random": "the domain and random rows of the pre-selection, drawn again for each seed",
    "bm25": "the domain and the pool's best rows by BM25",
    "dsir": "the domain and rows of the pool by hashed n-gram importance",
    "rds": "the domain and the pool's nearest rows by embedding, domain rows in turns",
    "random-selected": "the domain and the best rows by the kernel out of a random set as large as the pre-selection",
    "selected": "the domain and the best rows by the kernel out of the pre-selection; one arm a --probe",
    "rounds": "the domain and as many rows, chosen in --rounds: after each the model is trained on and chooses again",
}
"""Every arm, in the order of the table."""
OPTIONAL: Final = ("oracle", "dsir", "rds", "random-selected", "rounds")
"""Arms that only come when they are asked for."""
DRAWS: Final = 5
"""Sets of random rows: three on one task differed by .06 nats, as much as arms do."""
PER_SEED: Final = ("random", "random-length", "oracle", "preselect-random")
"""Arms that draw other rows for each seed; the others train the same rows with each."""
COARSE_TIMES: Final = 4
"""The pre-selection keeps this many times the rows selected: arXiv 2511.07380."""
MATCHED: Final = ("domain-steps", "domain-tokens")
"""Arms of the domain alone that are trained as long as another arm."""
NO_POOL: Final = ("base", "domain", *MATCHED)
NO_FEATURES: Final = (*NO_POOL, "random", "oracle", "bm25", "dsir")
"""Arms whose rows are chosen without the model."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What every arm takes from the pool: `n` rows or `tokens` tokens; the pre-selection keeps `coarse` rows."""

    n: int | None
    tokens: int | None
    coarse: int | None


@dataclass(frozen=True, slots=True)
class Plan:
    """What to compare and how: the words of `ntksel arms`.

    `common` goes to every step that computes with the model, `rows_as` to those that read the domain and the pool,
    `training` to every fine-tune, `arm_training` to those of the arms and not to the warm-up, `features` to the
    kernel's features, `epochs` and `warmup_epochs` to the arms and to the warm-up; `against` are the test files to keep
    out. Every arm holds each domain row `domain_repeat` times
    (None: `fitted` decides). `draws` counts the runs of `random`, None: one per seed. `equalise` None: steps, or tokens
    for a budget in tokens. `rounds`: how many the arm `rounds` chooses its rows in. `sizes` takes the place of
    `budget.n`: one comparison for each, and `size` is which of them this is.
    """

    store: str
    model: str
    domain: str
    pool: str
    tasks: tuple[str, ...]
    name: str
    budget: Budget
    arms: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0,)
    probes: tuple[str, ...] = (kernel_presets.DEFAULT.probe,)
    method: str = kernel_presets.DEFAULT.method
    centre: bool = kernel_presets.DEFAULT.centre
    epochs: int = 3
    warmup_epochs: int = 1
    domain_repeat: int | None = None
    draws: int | None = DRAWS
    equalise: Equalise | None = None
    oracle: str | None = None
    rounds: int | None = None
    sizes: tuple[int, ...] = ()
    size: int | None = None
    prefix: str = ""
    against: tuple[str, ...] = ()
    common: Mapping[str, Any] = field(default_factory=dict)
    rows_as: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    arm_training: Mapping[str, Any] = field(default_factory=dict)
    features: Mapping[str, Any] = field(default_factory=dict)
    domain_data: Mapping[str, Any] = field(default_factory=dict)
    pool_data: Mapping[str, Any] = field(default_factory=dict)
    evaluation: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.arms:
            object.__setattr__(
                self, "arms", default_arms(self.equal, oracle=self.oracle is not None, rounds=self.rounds is not None)
            )
        if unknown := [arm for arm in self.arms if arm not in ARMS]:
            raise UsageError(f"--arms: {unknown[0]!r} is not a valid arm.", f"Give some of: {', '.join(ARMS)}.")
        for what, given in (("--arms", self.arms), ("--seeds", self.seeds), ("--probe", self.probes)):
            if not given or len(set(given)) < len(given):
                raise UsageError(f"{what}: {', '.join(map(str, given)) or 'nothing'}.", "Give each once, at least one.")
        for seed in self.seeds:
            check_training_seed("--seeds", seed)
        if "random-length" in self.arms and not self.chosen:
            raise UsageError("--arms: random-length is measured by the selected rows.", "Add selected to --arms.")
        needy = [arm for arm in MATCHED if arm in self.arms]
        if needy and not self.needs_pool:
            raise UsageError(
                f"--arms: {needy[0]} is measured by an arm that takes rows from the pool.", "Add selected to --arms."
            )
        if "oracle" in self.arms and self.oracle is None:
            raise UsageError("--arms: oracle takes rows known to be right.", "Give --oracle FILE or source=LABEL,....")
        self._check_budget()
        self._check_equalise()
        self._check_rounds()

    def _check_budget(self) -> None:
        if len(set(self.sizes)) < len(self.sizes) or min(self.sizes, default=1) < 1:
            raise UsageError(
                f"--sizes {','.join(map(str, self.sizes))}: expected different whole numbers from 1.",
                "As in --sizes 100,300,1000.",
            )
        given = (self.budget.n, self.budget.tokens, self.sizes or None)
        if self.needs_pool and sum(each is not None for each in given) != 1:
            raise UsageError(
                "The budget is missing or given twice.", "Give -n ROWS, --sizes ROWS,... or --token-budget TOKENS."
            )
        n, coarse = self.rows, self.budget.coarse
        if self.needs_coarse and n is None and coarse is None:
            raise UsageError("--coarse is missing.", "With --token-budget say how many rows the pre-selection keeps.")
        if self.needs_coarse and n is not None and coarse is not None and coarse <= n:
            raise UsageError(
                f"--coarse {coarse} leaves nothing to choose from for -n {n}.",
                f"Give more, as {COARSE_TIMES * n}, or a smaller -n.",
            )

    def _check_equalise(self) -> None:
        if self.equalise is not None:
            checked(Equalise, self.equalise, "--equalise")
        if self.equal != "tokens" and self.budget.tokens is not None:
            raise UsageError(
                f"--equalise {self.equal}: under --token-budget arms differ in rows, and so in steps.",
                "Give -n ROWS, or --equalise tokens.",
            )

    def _check_rounds(self) -> None:
        if "rounds" not in self.arms:
            return
        if self.rounds is None:
            raise UsageError("--arms: rounds takes a number of rounds.", "Give --rounds 3.")
        if self.equal == "tokens":
            raise UsageError(
                "--rounds shares out a number of rows; here the budget is in tokens.",
                "Give -n ROWS and --equalise steps or rows.",
            )
        least = min(self.sizes) if self.sizes else self.budget.n
        if self.rounds < 2 or (least is not None and least < self.rounds):
            raise UsageError(
                f"--rounds {self.rounds} of {least} rows: each round takes a row or more, and one round is the arm "
                "selected.",
                "Give 2 or more, and as many rows (-n) at least.",
            )

    @property
    def equal(self) -> Equalise:
        """What all arms have in common."""
        return self.equalise or (Equalise.STEPS if self.budget.tokens is None else Equalise.TOKENS)

    @property
    def items_as(self) -> str:
        """How the evaluation reads texts: `text_as` of `ntkcli.data.Encoder`."""
        return str(self.evaluation.get("text-as", TextAs.CHAT))

    @property
    def rows(self) -> int | None:
        """The rows taken from the pool, the most of them for several sizes; None for a budget in tokens."""
        return max(self.sizes) if self.sizes else self.budget.n

    @property
    def label(self) -> str:
        """What the size adds to the names of arms, runs and selections: `-n100`."""
        return "" if self.size is None else f"-n{self.size}"

    def fitted(self, pool: int, domain: int | None = None) -> Plan:
        """The plan for a pool and a domain of this many rows.

        The pre-selection keeps four times `n` of the pool's rows, at most all; the domain is repeated until its rows
        are seen about as often as the pool's.

        UsageError if the pool has no more rows than are to be kept or chosen.
        """
        n, coarse = self.rows, self.budget.coarse
        if n is not None and n >= pool:
            raise UsageError(f"-n {n}: the pool has {pool} rows, so there is nothing to choose.", "Give a smaller -n.")
        if coarse is not None and coarse > pool:
            raise UsageError(f"--coarse {coarse}: the pool has {pool} rows.", f"Give --coarse {pool} or less.")
        if coarse is None and n is not None:
            coarse = min(COARSE_TIMES * n, pool)
        return replace(self.repeated(domain), budget=replace(self.budget, coarse=coarse))

    def repeated(self, domain: int | None) -> Plan:
        """The plan with `domain_repeat` settled for a domain of this many rows."""
        if self.domain_repeat is not None:
            return self
        often = round(self.rows / domain) if self.rows and domain and self.needs_pool else 1
        return replace(self, domain_repeat=max(1, min(MOST_TIMES, often)))

    def parts(self) -> list[Plan]:
        """A plan for each size, ascending; the plan itself where there is one."""
        if not self.sizes:
            return [self]
        budgets = {size: replace(self.budget, n=size) for size in sorted(self.sizes)}
        return [replace(self, sizes=(), size=size, budget=budget) for size, budget in budgets.items()]

    def reference(self, given: str | None) -> str:
        """The baseline: `given`, else random rows, else the domain alone, else the bare model, else the first arm.

        Of several sizes it is that of the largest.
        """
        if self.sizes:
            return [part.reference(given) for part in self.parts()][-1]
        names = self.names()
        if given is not None and given not in names and f"{given}{self.label}" in names:
            given = f"{given}{self.label}"
        if given is not None and given not in names:
            raise UsageError(f"--baseline {given} is not one of the arms.", f"Give one of: {', '.join(names)}.")
        usual = (self.name_of("random"), self.name_of("domain"), "base", names[0])
        return given or next(name for name in usual if name in names)

    @property
    def chosen(self) -> list[str]:
        """The arms of the kernel, one a probe: `selected`, `selected-sum`."""
        return [f"selected{probe_suffix(probe)}" for probe in self.probes] if "selected" in self.arms else []

    @property
    def measure(self) -> str | None:
        """The arm that others are trained as long as: the first of the kernel's, else the first with pool rows."""
        taking = [arm for arm in ARMS if arm in self.arms and arm not in NO_POOL]
        return self.chosen[0] if self.chosen else next(iter(taking), None)

    @property
    def needs_pool(self) -> bool:
        """Whether any arm takes rows from the pool."""
        return any(arm not in NO_POOL for arm in self.arms)

    @property
    def needs_coarse(self) -> bool:
        """Whether any arm needs a smaller set before its selection."""
        return any(arm in self.arms for arm in ("selected", "rounds", "preselect-random", "random-selected"))

    @property
    def needs_features(self) -> bool:
        """Whether the model chooses rows, or its tokenizer counts them. If not, `score` reads the files."""
        by_model = any(arm not in NO_FEATURES for arm in self.arms) or self.equal == "tokens"
        return self.needs_pool and (by_model or "split" in {*self.domain_data, *self.pool_data})

    def name_of(self, arm: str) -> str:
        """The arm's name in the store and in the table."""
        sized = "" if arm in ("base", "domain") else self.label
        return arm if arm == "base" else f"{self.prefix}{arm}{sized}"

    def described(self) -> dict[str, str]:
        """The arms of the table, in its order, and what each trains on."""
        return {
            part.name_of(name): ARMS[arm]
            for part in self.parts()
            for arm in ARMS
            if arm in self.arms
            for name in (part.chosen if arm == "selected" else [arm])
        }

    def names(self) -> list[str]:
        """The arms of the table, in its order."""
        return list(self.described())

    def seeds_of(self, arm: str) -> tuple[int, ...]:
        """The seeds of an arm's runs: `random` has one for each draw, the seeds given first."""
        if arm != "random" or self.draws is None:
            return self.seeds
        unused = (seed for seed in range(self.draws + len(self.seeds)) if seed not in self.seeds)
        return (*self.seeds, *unused)[: self.draws]

    def runs(self) -> list[str]:
        """The runs to evaluate: `base`, and one a seed of every other arm."""
        found = [
            run
            for part in self.parts()
            for arm in ARMS
            if arm in self.arms
            for name in (part.chosen if arm == "selected" else [arm])
            for run in (["base"] if arm == "base" else [f"{part.name_of(name)}.s{seed}" for seed in self.seeds_of(arm)])
        ]
        return list(dict.fromkeys(found))


def default_arms(equal: Equalise, *, oracle: bool = False, rounds: bool = False) -> tuple[str, ...]:
    """The arms compared by default: all but those to be asked for, with the domain alone trained as long as others."""
    asked_for = {arm for arm, given in (("oracle", oracle), ("rounds", rounds)) if given}
    left_out = {*OPTIONAL, "domain-tokens" if equal == "steps" else "domain-steps"} - asked_for
    return tuple(arm for arm in ARMS if arm not in left_out)


def probe_suffix(probe: str) -> str:
    """Of the names of what a probe makes: the default's have none."""
    return "" if probe == kernel_presets.DEFAULT.probe else f"-{probe}"
