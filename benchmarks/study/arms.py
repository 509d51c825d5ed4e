"""The arms of the study as steps of a recipe: which features, which score of them, which rows to choose from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from setting import Cell, Setting

from ntkcli.steps.recipe import Step

FEATURES: Final[dict[str, dict[str, Any]]] = {
    "embed": {"kind": "embed"},
    "rds": {"kind": "embed", "pooling": "weighted"},
    "sum": {"kind": "ntk"},
    "centred": {"kind": "ntk", "probe": "centred"},
    "loss": {"kind": "loss"},
}
"""Features by name: the options of `featurize`, all but `rds` with the warmed-up adapter."""


@dataclass(frozen=True, slots=True)
class Arm:
    """Rows chosen from the pool: how they are scored, out of the pre-selection (`staged`) or the whole pool."""

    score: Mapping[str, Any]
    feature: str = ""
    staged: bool = True
    select: Mapping[str, Any] = field(default_factory=dict)


CHOSEN: Final[dict[str, Arm]] = {
    "bm25": Arm({"method": "bm25"}, staged=False),
    "embedding": Arm({"method": "cosine"}, "embed", staged=False),
    "rds": Arm({"method": "rds"}, "rds", staged=False),
    "less": Arm({"method": "less"}, "loss"),
    "sum-mean": Arm({"method": "mean"}, "sum"),
    "sum-cosine": Arm({"method": "cosine"}, "sum"),
    "sum-cosine-centre": Arm({"method": "cosine", "centre": True}, "sum"),
    "centred-cosine-centre": Arm({"method": "cosine", "centre": True}, "centred"),
}
"""Arms that train the same rows with every seed. `sum-mean` out of the pre-selection is the paper's method."""
PAPER: Final = "sum-mean"
DRAWN: Final = ("random", "random-length", "preselect-random")
"""Arms that draw other rows for each seed; `random-length` as long as the paper's selection."""
ALONE: Final = ("domain", "domain-tokens")
"""The domain's rows alone, for the epochs of every arm or for the tokens of the paper's."""
ARMS: Final = (*ALONE, *DRAWN, *CHOSEN)


@dataclass(frozen=True, slots=True)
class Plan:
    """The steps of one cell in the store of the study; what belongs to the cell begins with its name."""

    cell: Cell
    setting: Setting
    folder: Path
    model: str
    arms: tuple[str, ...] = ARMS
    chosen: Mapping[str, Arm] = field(default_factory=lambda: CHOSEN)
    features: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: FEATURES)

    @property
    def store(self) -> str:
        """Where everything lies: one store, so that cells share what they can."""
        return str(self.folder / "store")

    @property
    def domain(self) -> str:
        """The file with the domain's rows."""
        return str(self.folder / f"{self.cell.task}-d{self.cell.domain}.jsonl")

    @property
    def task(self) -> str:
        """The file with the test items."""
        return str(self.folder / f"{self.cell.task}-test.jsonl")

    def runs(self, seed: int) -> list[str]:
        """The runs of a seed, `base` before them."""
        return ["base", *(self.own(f"{arm}.s{seed}") for arm in self.arms)]

    def own(self, name: str) -> str:
        """The name of an artefact of this cell."""
        return f"{self.cell.name}-{name}"

    @property
    def _domain(self) -> str:
        """The domain's name in the store; what depends on it alone begins with it."""
        return f"{self.cell.task}-d{self.cell.domain}"

    @property
    def _warmup(self) -> str:
        return f"{self._domain}-warmup"

    def steps(self) -> list[Step]:
        """Everything, a seed after the other, each evaluated when it is trained."""
        steps = [*self.selections()]
        for seed in self.setting.seeds:
            steps += [*self._trainings(seed), self._evaluation(seed)]
        return steps

    def selections(self) -> Iterator[Step]:
        """Warm-up, features, scores, and the rows of every arm that chooses."""
        warm = {"epochs": self.setting.warmup_epochs, "keep-optimizer": True}
        yield self._finetune(self._warmup, [self.domain], warm)
        chosen = {name: self.chosen[name] for name in self.arms if name in self.chosen}
        yield from self._featurize("embed", None)
        yield self._score("votes", {"method": "votes", "feature": self._feature("embed")})
        yield self._select("votes", "coarse", self.setting.coarse_times * self.cell.n)
        made = {"embed"}
        for name, arm in chosen.items():
            if arm.feature and arm.feature not in made:
                made.add(arm.feature)
                yield from self._featurize(arm.feature, self.own("coarse") if arm.staged else None)
            how = {**arm.score, **({"feature": self._feature(arm.feature)} if arm.feature else {})}
            yield self._score(name, how | ({"rows": self.own("coarse")} if arm.staged else {}))
            yield self._select(name, name, self.cell.n, arm.select)

    def _trainings(self, seed: int) -> Iterator[Step]:
        epochs = {"epochs": self.setting.epochs, "seed": seed}
        order = sorted(self.arms, key=lambda arm: arm == "domain-tokens")  # takes as many tokens as another run
        for arm in order:
            run = f"{arm}.s{seed}"
            if arm == "domain-tokens":
                yield self._finetune(self.own(run), [self.domain], {"match-tokens": self.own(f"{PAPER}.s{seed}"), "seed": seed})
            elif arm == "domain":
                yield self._finetune(self.own(run), [self.domain], epochs)
            else:
                picked = f"{arm}-s{seed}" if arm in DRAWN else arm
                if arm in DRAWN:
                    yield from self._draw(arm, picked, seed)
                yield self._finetune(self.own(run), [self.domain, self.own(picked)], epochs)

    def _draw(self, arm: str, name: str, seed: int) -> Iterator[Step]:
        how: dict[str, Any] = {"method": "random", "seed": seed}
        how |= {"random-length": {"match-length": self.own(PAPER)}, "preselect-random": {"rows": self.own("coarse")}}.get(
            arm, {}
        )
        yield self._score(name, how, domain=False)
        yield self._select(name, name, self.cell.n)

    def _evaluation(self, seed: int) -> Step:
        runs = {"run": self.runs(seed), "task": [self.task], "name": self.cell.name}
        return Step("eval", self.store, {"model": self.model, **runs, "max-length": self.setting.max_length})

    def _feature(self, name: str) -> str:
        """`rds` is of the bare model; `embed` of the warmed-up one; the others also of this cell's pre-selection."""
        return {"rds": "rds", "embed": f"{self._domain}-embed"}.get(name, self.own(name))

    def _featurize(self, name: str, rows: str | None) -> Iterator[Step]:
        """Both sides under one feature name; LESS compares plain gradients of the domain with Adam's steps."""
        how = {**self.features[name], "feature": self._feature(name), "model": self.model}
        how |= {} if name == "rds" else {"adapter": self._warmup}
        how |= {"max-length": self.setting.max_length}
        yield Step("featurize", self.store, {"data": self.domain, "name": self._domain, **how})
        how |= ({"rows": rows} if rows else {}) | ({"adam": True} if name == "loss" else {})
        yield Step("featurize", self.store, {"data": str(self.folder / "pool.jsonl"), "name": "pool", **how})

    def _score(self, name: str, how: Mapping[str, Any], *, domain: bool = True) -> Step:
        sides = {"pool": "pool", **({"domain": self._domain} if domain else {})}
        return Step("score", self.store, {**sides, **how, "name": self.own(name)})

    def _select(self, score: str, name: str, n: int, how: Mapping[str, Any] | None = None) -> Step:
        values = {"score": self.own(score), "n": n, "name": self.own(name), "against": [self.task], **(how or {})}
        return Step("select", self.store, values)

    def _finetune(self, name: str, rows: list[str], how: Mapping[str, Any]) -> Step:
        values = {"model": self.model, "train": rows, "name": name, **how, **self.setting.training}
        return Step("finetune", self.store, {**values, "max-length": self.setting.max_length})
