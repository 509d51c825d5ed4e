"""The plan of a comparison: which steps make all its arms under one budget. Pure; runs nothing and reads no file.

An arm is one way to spend the budget; what every arm answers stands in docs/arms.md. Artefacts are named as in the
README, so that what a store has already is found.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from ntkcli import kernel_presets
from ntkcli.errors import UsageError
from ntkcli.seeds import check_training_seed
from ntkcli.steps.pipelines.recipe import Step

ARMS: Final[dict[str, str]] = {
    "base": "the model without training",
    "domain": "the domain's rows alone",
    "domain-tokens": "the domain's rows alone, for as many tokens as the selected arm",
    "random": "the domain and random rows of the pool, drawn again for each seed",
    "random-length": "the same, as long in tokens as the selected rows",
    "embedding": "the domain and the pool's nearest rows by embedding",
    "preselect-random": "the domain and random rows of the pre-selection, drawn again for each seed",
    "bm25": "the domain and the pool's best rows by BM25",
    "dsir": "the domain and rows of the pool by hashed n-gram importance",
    "rds": "the domain and the pool's nearest rows by embedding, domain rows in turns",
    "random-selected": "the domain and the best rows by the kernel out of a random set as large as the pre-selection",
    "selected": "the domain and the best rows by the kernel out of the pre-selection; one arm a --probe",
}
"""Every arm, in the order of the table."""
DEFAULT: Final = tuple(arm for arm in ARMS if arm not in {"dsir", "rds", "random-selected"})
PER_SEED: Final = ("random", "random-length", "preselect-random")
"""Arms that draw other rows for each seed; the others train the same rows with each."""
COARSE_TIMES: Final = 4
"""The pre-selection keeps so many times the rows selected: arXiv 2511.07380."""
NO_POOL: Final = ("base", "domain", "domain-tokens")
NO_FEATURES: Final = (*NO_POOL, "random", "bm25", "dsir")
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

    `common` goes to every step that computes with the model, `training` to every fine-tune, `features` to the kernel's
    features, `epochs` and `warmup_epochs` to the arms and to the warm-up; `against` are the test files to keep out.
    """

    store: str
    model: str
    domain: str
    pool: str
    tasks: tuple[str, ...]
    name: str
    budget: Budget
    arms: tuple[str, ...] = DEFAULT
    seeds: tuple[int, ...] = (0,)
    probes: tuple[str, ...] = (kernel_presets.DEFAULT.probe,)
    method: str = kernel_presets.DEFAULT.method
    centre: bool = kernel_presets.DEFAULT.centre
    epochs: int = 3
    warmup_epochs: int = 1
    prefix: str = ""
    against: tuple[str, ...] = ()
    common: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    features: Mapping[str, Any] = field(default_factory=dict)
    domain_data: Mapping[str, Any] = field(default_factory=dict)
    pool_data: Mapping[str, Any] = field(default_factory=dict)
    evaluation: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if unknown := [arm for arm in self.arms if arm not in ARMS]:
            raise UsageError(f"--arms: {unknown[0]!r} is not a valid arm.", f"Give some of: {', '.join(ARMS)}.")
        for what, given in (("--arms", self.arms), ("--seeds", self.seeds), ("--probe", self.probes)):
            if not given or len(set(given)) < len(given):
                raise UsageError(f"{what}: {', '.join(map(str, given)) or 'nothing'}.", "Give each once, at least one.")
        for seed in self.seeds:
            check_training_seed("--seeds", seed)
        needy = [arm for arm in ("domain-tokens", "random-length") if arm in self.arms]
        if needy and not self.chosen:
            raise UsageError(f"--arms: {needy[0]} is measured by the selected rows.", "Add selected to --arms.")
        if self.needs_pool and (self.budget.n is None) == (self.budget.tokens is None):
            raise UsageError("The budget is missing or given twice.", "Give -n ROWS or --token-budget TOKENS.")
        n, coarse = self.budget.n, self.budget.coarse
        if self.needs_coarse and n is None and coarse is None:
            raise UsageError("--coarse is missing.", "With --token-budget say how many rows the pre-selection keeps.")
        if self.needs_coarse and n is not None and coarse is not None and coarse <= n:
            raise UsageError(
                f"--coarse {coarse} leaves nothing to choose from for -n {n}.",
                f"Give more, as {COARSE_TIMES * n}, or a smaller -n.",
            )

    def fitted(self, pool: int) -> Plan:
        """The plan for a pool of so many rows: the pre-selection keeps four times `n` of them, at most all.

        UsageError if the pool has no more rows than are to be kept or chosen.
        """
        n, coarse = self.budget.n, self.budget.coarse
        if n is not None and n >= pool:
            raise UsageError(f"-n {n}: the pool has {pool} rows, so there is nothing to choose.", "Give a smaller -n.")
        if coarse is not None and coarse > pool:
            raise UsageError(f"--coarse {coarse}: the pool has {pool} rows.", f"Give --coarse {pool} or less.")
        if coarse is None and n is not None:
            coarse = min(COARSE_TIMES * n, pool)
        return replace(self, budget=replace(self.budget, coarse=coarse))

    def reference(self, given: str | None) -> str:
        """The baseline: `given`, else random rows, else the domain alone, else the bare model, else the first arm."""
        names = self.names()
        if given is not None and given not in names:
            raise UsageError(f"--baseline {given} is none of the arms.", f"Give one of: {', '.join(names)}.")
        usual = (self._own("random"), self._own("domain"), "base", names[0])
        return given or next(name for name in usual if name in names)

    @property
    def chosen(self) -> list[str]:
        """The arms of the kernel, one a probe: `selected`, `selected-sum`."""
        return [f"selected{_suffix(probe)}" for probe in self.probes] if "selected" in self.arms else []

    @property
    def needs_pool(self) -> bool:
        """Whether any arm takes rows from the pool."""
        return any(arm not in NO_POOL for arm in self.arms)

    @property
    def needs_coarse(self) -> bool:
        """Whether any arm needs a smaller set before its selection."""
        return any(arm in self.arms for arm in ("selected", "preselect-random", "random-selected"))

    @property
    def needs_features(self) -> bool:
        """Whether the model chooses rows, or its tokenizer counts them. If not, `score` reads the files."""
        by_model = any(arm not in NO_FEATURES for arm in self.arms) or self.budget.tokens is not None
        return self.needs_pool and (by_model or "split" in {*self.domain_data, *self.pool_data})

    def names(self) -> list[str]:
        """The arms of the table, in its order."""
        return [
            f"{self.prefix}{name}" if name != "base" else name
            for arm in ARMS
            if arm in self.arms
            for name in (self.chosen if arm == "selected" else [arm])
        ]

    def runs(self) -> list[str]:
        """The runs to evaluate: `base`, and one a seed of every other arm."""
        return [run for arm in self.names() for run in (["base"] if arm == "base" else self._seeded(arm))]

    def steps(self) -> list[Step]:
        """Every step, in an order in which each finds what it reads."""
        return [*self._shared(), *self._selections(), *self._trainings(), self._evaluation()]

    def _seeded(self, arm: str) -> list[str]:
        return [f"{arm}.s{seed}" for seed in self.seeds]

    def _shared(self) -> Iterator[Step]:
        """Warm-up, embeddings and the pre-selection."""
        if not self.needs_features:
            return
        yield self._finetune("warmup", [self.domain], {"epochs": self.warmup_epochs})
        yield self._featurize("domain", {"kind": "embed"})
        yield self._featurize("pool", {"kind": "embed"})
        if "selected" in self.arms or "preselect-random" in self.arms:
            yield self._score("stage1", {"method": "votes", "feature": "embed"})
            yield self._select("stage1", "coarse", n=self.budget.coarse)

    def _selections(self) -> Iterator[Step]:
        """The rows of every arm that takes some from the pool."""
        if "selected" in self.arms:
            for probe in self.probes:
                yield from self._kernel(probe, rows="coarse", stage="stage2", picked="picked")
        if "random-selected" in self.arms:
            yield self._score("random-coarse", {"method": "random"}, domain=False)
            yield self._select("random-coarse", "random-coarse", n=self.budget.coarse)
            probe, stage = self.probes[0], "random-stage2"
            yield from self._kernel(probe, rows="random-coarse", stage=stage, picked="random-picked", of="-random")
        plain = {
            "embedding": {"method": "cosine", "feature": "embed"},
            "bm25": {"method": "bm25"},
            "dsir": {"method": "dsir"},
            "rds": {"method": "rds", "feature": "embed"},
        }
        for arm, how in plain.items():
            if arm in self.arms:
                yield self._score(arm, how)
                yield self._select(arm, arm)
        drawn: dict[str, dict[str, Any]] = {
            "random": {},
            "random-length": {"match-length": self._own(f"picked{_suffix(self.probes[0])}")},
            "preselect-random": {"rows": self._own("coarse")},
        }
        for arm, how in drawn.items():
            for seed in self.seeds if arm in self.arms else ():
                name = f"{arm}-s{seed}"
                yield self._score(name, {"method": "random", **how, "seed": seed}, domain=False)
                yield self._select(name, name)

    def _kernel(self, probe: str, *, rows: str, stage: str, picked: str, of: str = "") -> Iterator[Step]:
        """Features by the kernel of the domain and of some rows of the pool, their score, the best of them."""
        suffix = _suffix(probe)
        how: dict[str, Any] = {"kind": "ntk", **self.features}
        if probe == "sum":
            how.pop("probes", None)  # several directions are of the random ones
        else:
            how["probe"] = probe
        feature = f"ntk{suffix}{of}"
        how |= {"feature": self._own(feature)} if feature != "ntk" or self.prefix else {}
        yield self._featurize("domain", how)
        yield self._featurize("pool", {**how, "rows": self._own(rows)})
        scored = {"method": self.method, "feature": self._own(feature), "rows": self._own(rows)}
        yield self._score(f"{stage}{suffix}", scored | ({"centre": True} if self.centre else {}))
        yield self._select(f"{stage}{suffix}", f"{picked}{suffix}")

    def _trainings(self) -> Iterator[Step]:
        """One run a seed of every arm. The selected ones first: others take as many tokens."""
        epochs = {"epochs": self.epochs}
        for probe in self.probes if "selected" in self.arms else ():
            name = f"selected{_suffix(probe)}"
            rows = [self.domain, self._own(f"picked{_suffix(probe)}")]
            yield self._finetune(name, rows, {**epochs, "seeds": list(self.seeds)})
        for arm in self.arms:
            if arm in ("base", "selected"):
                continue
            if arm in PER_SEED:
                for seed in self.seeds:
                    rows = [self.domain, self._own(f"{arm}-s{seed}")]
                    yield self._finetune(f"{arm}.s{seed}", rows, {**epochs, "seed": seed})
            elif arm == "domain-tokens":
                for seed in self.seeds:
                    tokens = {"match-tokens": self._own(f"{self.chosen[0]}.s{seed}")}
                    yield self._finetune(f"{arm}.s{seed}", [self.domain], {**tokens, "seed": seed})
            else:
                chosen = {"domain": [], "random-selected": [f"random-picked{_suffix(self.probes[0])}"]}.get(arm, [arm])
                rows = [self.domain, *map(self._own, chosen)]
                yield self._finetune(arm, rows, {**epochs, "seeds": list(self.seeds)})

    def _evaluation(self) -> Step:
        values: dict[str, Any] = {"model": self.model, "run": self.runs(), "task": list(self.tasks), "name": self.name}
        return Step("eval", self.store, {**values, **self.common, **self.evaluation})

    def _own(self, name: str) -> str:
        return f"{self.prefix}{name}"

    def _finetune(self, name: str, rows: Sequence[str], how: Mapping[str, Any]) -> Step:
        values = {"model": self.model, "train": list(rows), "name": self._own(name), **how}
        return Step("finetune", self.store, {**values, **self.training, **self.common, **self.domain_data})

    def _featurize(self, data: str, how: Mapping[str, Any]) -> Step:
        place, reading = (self.domain, self.domain_data) if data == "domain" else (self.pool, self.pool_data)
        values = {"data": place, "name": self._own(data), **how, "model": self.model, "adapter": self._own("warmup")}
        return Step("featurize", self.store, {**values, **self.common, **reading})

    def _score(self, name: str, how: Mapping[str, Any], *, domain: bool = True) -> Step:
        sides = {"pool": self._own("pool"), **({"domain": self._own("domain")} if domain else {})}
        if not self.needs_features:
            files = {"pool": self.pool, "domain": self.domain}
            sides = {side: f"{known}={files[side]}" for side, known in sides.items()} | dict(self.pool_data)
        return Step("score", self.store, {**sides, **how, "name": self._own(name)})

    def _select(self, score: str, name: str, *, n: int | None = None) -> Step:
        tokens = self.budget.tokens if n is None else None
        size = {"token-budget": tokens, "tokens-of": "embed"} if tokens is not None else {"n": n or self.budget.n}
        kept_out = {"against": list(self.against)} if self.against else {}
        return Step("select", self.store, {"score": self._own(score), **size, "name": self._own(name), **kept_out})


def _suffix(probe: str) -> str:
    """Of the names of what a probe makes: the default's have none."""
    return "" if probe == kernel_presets.DEFAULT.probe else f"-{probe}"
