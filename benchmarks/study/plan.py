"""The steps of one cell of the study, for `ntksel run`: selections, then training and evaluation, seed after seed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arms import ARMS, DRAWN, FEATURES, PAPER, PRESELECTIONS, Options
from setting import Cell, Setting

from ntkcli.steps.pipelines.recipe import Step


@dataclass(frozen=True, slots=True)
class Plan:
    """A cell and its arms in the store of the study; what belongs to the cell begins with its name."""

    cell: Cell
    setting: Setting
    folder: Path
    model: str
    arms: tuple[str, ...]

    @property
    def store(self) -> str:
        """Where everything lies: one store, so that cells share what they can."""
        return str(self.folder / "store")

    @property
    def embedding(self) -> str:
        """The name of the features that pre-select: they are of every pool row."""
        return f"{self._domain}-embed"

    def own(self, name: str) -> str:
        """The name of an artefact of this cell."""
        return f"{self.cell.name}-{name}"

    def steps(self) -> list[Step]:
        """Everything, a seed after the other, each evaluated when it is trained."""
        steps = [*self.selections()]
        for seed in self.setting.seeds:
            steps += [*self._trainings(seed), self._evaluation(seed)]
        return steps

    def selections(self) -> Iterator[Step]:
        """Warm-up, pre-selections, features, scores, and the rows of every arm that chooses."""
        warm = {"epochs": self.setting.warmup_epochs, "keep-optimizer": True}
        yield self._finetune(self._warmup, [self._domain_file], warm)
        made: set[str] = set()  # features and pre-selections
        for name in self.arms:
            if name == "preselect-random":
                yield from self._preselect("coarse", made)
            if name not in ARMS:
                continue
            arm = ARMS[name]
            if arm.rows:
                yield from self._preselect(arm.rows, made)
            yield from self._scored(name, arm.score, arm.feature, arm.rows, made)
            yield self._select(name, name, self.cell.n, arm.select)

    def _preselect(self, name: str, made: set[str]) -> Iterator[Step]:
        if name in made:
            return
        made.add(name)
        found = PRESELECTIONS[name]
        yield from self._scored(found.name, found.score, found.feature, "", made)
        yield self._select(found.name, name, found.times * self.cell.n, {})

    def _scored(self, name: str, score: Options, feature: str, rows: str, made: set[str]) -> Iterator[Step]:
        """A score and the features that it needs, unless they are made."""
        how: dict[str, Any] = dict(score)
        if feature:
            how["feature"] = self._feature(feature, rows)
            if how["feature"] not in made:
                made.add(how["feature"])
                yield from self._featurize(feature, rows)
        if rows:
            how["rows"] = self.own(rows)
        yield self._score(name, how, domain=score["method"] != "random")

    def _trainings(self, seed: int) -> Iterator[Step]:
        epochs = {"epochs": self.setting.epochs, "seed": seed}
        for arm in sorted(self.arms, key=lambda arm: arm == "domain-tokens"):  # last: as many tokens as another run
            run = self.own(f"{arm}.s{seed}")
            if arm == "domain-tokens":
                tokens = {"match-tokens": self.own(f"{PAPER}.s{seed}"), "seed": seed}
                yield self._finetune(run, [self._domain_file], tokens)
            elif arm == "domain":
                yield self._finetune(run, [self._domain_file], epochs)
            else:
                picked = f"{arm}-s{seed}" if arm in DRAWN else arm
                if arm in DRAWN:
                    yield from self._draw(arm, picked, seed)
                yield self._finetune(run, [self._domain_file, self.own(picked)], epochs)

    def _draw(self, arm: str, name: str, seed: int) -> Iterator[Step]:
        how: dict[str, Any] = {"method": "random", "seed": seed}
        if arm == "random-length":
            how["match-length"] = self.own(PAPER)
        elif arm == "preselect-random":
            how["rows"] = self.own("coarse")
        yield self._score(name, how, domain=False)
        yield self._select(name, name, self.cell.n, {})

    def _evaluation(self, seed: int) -> Step:
        runs = ["base", *(self.own(f"{arm}.s{seed}") for arm in self.arms)]
        how = {"model": self.model, "run": runs, "task": [self._task_file], "name": self.cell.name}
        return Step("eval", self.store, {**how, "max-length": self.setting.max_length})

    @property
    def _domain(self) -> str:
        """The domain's name in the store; what depends on it alone begins with it."""
        return f"{self.cell.task}-d{self.cell.domain}"

    @property
    def _domain_file(self) -> str:
        return str(self.folder / f"{self._domain}.jsonl")

    @property
    def _task_file(self) -> str:
        return str(self.folder / f"{self.cell.task}-test.jsonl")

    @property
    def _warmup(self) -> str:
        return f"{self._domain}-warmup"

    def _feature(self, name: str, rows: str) -> str:
        """Its name in the store: of the pool alone, of the domain's warm-up too, or also of a pre-selection."""
        if rows:
            return self.own(name if rows == "coarse" else f"{name}-{rows}")
        return f"{self._domain}-{name}" if FEATURES[name].warmed else name

    def _featurize(self, name: str, rows: str) -> Iterator[Step]:
        """Both sides under one feature name; LESS compares plain gradients of the domain with Adam's steps."""
        how: dict[str, Any] = {**FEATURES[name].options, "feature": self._feature(name, rows), "model": self.model}
        if FEATURES[name].warmed:
            how["adapter"] = self._warmup
        how["max-length"] = self.setting.max_length
        yield Step("featurize", self.store, {"data": self._domain_file, "name": self._domain, **how})
        if rows:
            how["rows"] = self.own(rows)
        if name == "loss":
            how["adam"] = True
        yield Step("featurize", self.store, {"data": str(self.folder / "pool.jsonl"), "name": "pool", **how})

    def _score(self, name: str, how: Options, *, domain: bool) -> Step:
        sides = {"pool": "pool", **({"domain": self._domain} if domain else {})}
        return Step("score", self.store, {**sides, **how, "name": self.own(name)})

    def _select(self, score: str, name: str, n: int, how: Options) -> Step:
        values = {"score": self.own(score), "n": n, "name": self.own(name), "against": [self._task_file], **how}
        return Step("select", self.store, values)

    def _finetune(self, name: str, rows: list[str], how: Options) -> Step:
        values = {"model": self.model, "train": rows, "name": name, **how, **self.setting.training}
        return Step("finetune", self.store, {**values, "max-length": self.setting.max_length})
