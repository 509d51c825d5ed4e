"""The steps of a comparison: the commands that make all its arms. Pure; runs nothing and reads no file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from ntkcli.engine.gradients.registry import PROBES
from ntkcli.steps.pipelines.arms_plan import MATCHED, PER_SEED, Plan, probe_suffix
from ntkcli.steps.pipelines.recipe import Step

_PLAIN: Final[dict[str, dict[str, Any]]] = {
    "embedding": {"method": "cosine", "feature": "embed"},
    "bm25": {"method": "bm25"},
    "dsir": {"method": "dsir"},
    "rds": {"method": "rds", "feature": "embed"},
}
"""Arms of one score, and how it scores."""
_CHOOSING: Final = ("selected", "rounds", "random-selected", *_PLAIN, *PER_SEED)
"""Arms that take rows from the pool, in the order in which these are chosen."""


def steps_of(plan: Plan) -> list[Step]:
    """Every step, in an order in which each finds what it reads; none twice."""
    makers = [_Maker(part) for part in plan.parts()]
    found = [*makers[0].shared()]
    for make in (_Maker.selections, _Maker.trainings):
        for maker in makers:
            for step in make(maker):
                if step not in found:
                    found.append(step)
    values: dict[str, Any] = {"model": plan.model, "run": plan.runs(), "task": list(plan.tasks), "name": plan.name}
    return [*found, Step("eval", plan.store, {**values, **plan.common, **plan.evaluation})]


def rows_per_round(plan: Plan) -> list[int]:
    """How many rows each round takes: shares of `-n` that differ by one row at most."""
    rounds, n = plan.rounds or 1, plan.budget.n or 0
    return [n // rounds + (i < n % rounds) for i in range(rounds)]


class _Maker:
    """Makes the steps of a plan of one size."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        often = plan.domain_repeat or 1
        self.domain = plan.domain if often == 1 else f"{plan.domain}={often}"

    def shared(self) -> Iterator[Step]:
        """Warm-up, embeddings and the pre-selection."""
        plan = self.plan
        if not plan.needs_features:
            return
        yield self._finetune("warmup", [plan.domain], {"epochs": plan.warmup_epochs})
        yield self._featurize("domain", {"kind": "embed"})
        yield self._featurize("pool", {"kind": "embed"})
        if {"selected", "rounds", "preselect-random"} & set(plan.arms):
            yield self._score("stage1", {"method": "votes", "feature": "embed"})
            yield self._select("stage1", "coarse", n=plan.budget.coarse)

    def selections(self) -> Iterator[Step]:
        """The rows of every arm that takes some from the pool; first those that others have as many tokens as."""
        arms = [arm for arm in _CHOOSING if arm in self.plan.arms]
        first = [arm for arm in arms if arm == self.plan.measure]
        for arm in [*first, *(arm for arm in arms if arm not in first)]:
            yield from self._rows_of(arm)

    def _rows_of(self, arm: str) -> Iterator[Step]:
        plan = self.plan
        if arm == "selected":
            for probe in plan.probes:
                yield from self._kernel(probe, rows="coarse", stage="stage2", picked="picked")
        elif arm == "rounds":
            yield from self._in_rounds()
        elif arm == "random-selected":
            yield self._score("random-coarse", {"method": "random"}, domain=False)
            yield self._select("random-coarse", "random-coarse", n=plan.budget.coarse)
            probe, stage = plan.probes[0], "random-stage2"
            yield from self._kernel(probe, rows="random-coarse", stage=stage, picked="random-picked", of="-random")
        elif arm in _PLAIN:
            yield self._score(arm, _PLAIN[arm])
            yield self._select(arm, self._sized(arm))
        else:
            yield from self._drawn(arm)

    def _drawn(self, arm: str) -> Iterator[Step]:
        """Rows drawn at random for each seed: of the pool, of like length, of the pre-selection, of the oracle."""
        plan = self.plan
        how: dict[str, Any] = {"method": "random"}
        score = arm
        if arm == "random-length":
            score = self._sized(arm)
            how["match-length"] = self._own(self._sized(f"picked{probe_suffix(plan.probes[0])}"))
        elif arm == "preselect-random":
            how["rows"] = self._own("coarse")
        elif arm == "oracle":
            score = "random"
        for seed in plan.seeds_of(arm):
            yield self._score(f"{score}-s{seed}", {**how, "seed": seed}, domain=False)
            only = (plan.oracle or "") if arm == "oracle" else None
            yield self._select(f"{score}-s{seed}", f"{self._sized(arm)}-s{seed}", only=only)

    def _in_rounds(self) -> Iterator[Step]:
        """A share of the rows by the warm-up's features; then train on them, and choose among what is left, in turns.

        Every training but the arms' own goes on from the adapter before, over the domain and the rows just chosen.
        """
        plan, probe = self.plan, self.plan.probes[0]
        suffix, sizes = probe_suffix(probe), rows_per_round(plan)
        coarse, adapter, taken = plan.budget.coarse or 0, "warmup", 0
        shape = ("rank", "alpha", "target-modules")  # of the adapter that it goes on from
        training = {key: value for key, value in plan.training.items() if key not in shape}
        training |= {key: value for key, value in plan.arm_training.items() if key == "loss-per"}
        for number, n in enumerate(sizes, start=1):
            name = self._sized(f"round{number}")
            if number == 1:
                yield from self._kernel_score(probe, rows="coarse", stage=f"stage2{suffix}")
                yield self._select(f"stage2{suffix}", name, n=n)
            else:
                before = [self._sized(f"round{i}") for i in range(1, number)]
                after, left = self._sized(f"after-round{number - 1}"), self._sized(f"left{number}")
                how = {"epochs": plan.warmup_epochs, "init-adapter": self._own(adapter), **training}
                yield self._finetune(after, [self.domain, self._own(before[-1])], how, shape=False)
                adapter = after
                yield self._select("stage1", left, n=coarse - taken, exclude=before)
                yield from self._kernel_score(probe, rows=left, stage=name, of=f"-{name}", adapter=adapter)
                yield self._select(name, name, n=n)
            taken += n

    def _kernel(self, probe: str, *, rows: str, stage: str, picked: str, of: str = "") -> Iterator[Step]:
        """Features by the kernel of the domain and of some rows of the pool, their score, the best of them."""
        suffix = probe_suffix(probe)
        yield from self._kernel_score(probe, rows=rows, stage=f"{stage}{suffix}", of=of)
        yield self._select(f"{stage}{suffix}", self._sized(f"{picked}{suffix}"))

    def _kernel_score(
        self, probe: str, *, rows: str, stage: str, of: str = "", adapter: str = "warmup"
    ) -> Iterator[Step]:
        """Features by the kernel of the domain and of some rows of the pool, and their score `stage`."""
        plan, suffix = self.plan, probe_suffix(probe)
        how: dict[str, Any] = {"kind": "ntk", "probe": probe, **plan.features}
        if not PROBES.get(probe).seeded:
            how.pop("probes", None)  # several directions are of the random ones
        feature = f"ntk{suffix}{of}"
        how |= {"feature": self._own(feature)} if feature != "ntk" or plan.prefix else {}
        drop = plan.method == "drop"  # of losses under the warmed-up adapter: compares with no domain row
        if not drop:
            yield self._featurize("domain", how, adapter)
        losses = {"losses": True} if drop else {}
        yield self._featurize("pool", {**how, "rows": self._own(rows), **losses}, adapter)
        scored = {"method": plan.method, "feature": self._own(feature), "rows": self._own(rows)}
        yield self._score(stage, scored | ({"centre": True} if plan.centre else {}), domain=not drop)

    def trainings(self) -> Iterator[Step]:
        """One run a seed of every arm. First the one that others are trained as long as."""
        plan = self.plan
        arms = [arm for arm in ("selected", *plan.arms) if arm in plan.arms and arm != "base"]
        for arm in dict.fromkeys([*(arm for arm in arms if arm not in MATCHED), *arms]):
            if arm == "selected":
                for probe in plan.probes:
                    suffix = probe_suffix(probe)
                    yield self._arm(f"selected{suffix}", [self._sized(f"picked{suffix}")], plan.seeds)
            elif arm in MATCHED:
                yield from self._matched(arm)
            elif arm in PER_SEED:
                for seed in plan.seeds_of(arm):
                    yield self._arm(arm, [f"{self._sized(arm)}-s{seed}"], seed)
            else:
                special = {"domain": [], "random-selected": [f"random-picked{probe_suffix(plan.probes[0])}"]}
                special["rounds"] = [f"round{i}" for i in range(1, (plan.rounds or 0) + 1)]
                yield self._arm(arm, list(map(self._sized, special.get(arm, [arm]))), plan.seeds)

    def _matched(self, arm: str) -> Iterator[Step]:
        """The domain alone, seed by seed for as many steps or tokens as the run of that seed of another arm."""
        plan, measure = self.plan, self.plan.measure or ""
        known = plan.seeds_of(measure)
        for i, seed in enumerate(plan.seeds):
            like = f"{plan.name_of(measure)}.s{known[min(i, len(known) - 1)]}"
            option = "match-steps" if arm == "domain-steps" else "match-tokens"
            yield self._arm(arm, [], seed, {option: like})

    def _arm(
        self, arm: str, chosen: Sequence[str], seeds: int | tuple[int, ...], until: Mapping[str, Any] | None = None
    ) -> Step:
        """The training of an arm: one run, or one a seed; `until` says when it stops, if not after `epochs`."""
        plan = self.plan
        rows = [self.domain, *map(self._own, chosen)]
        one = isinstance(seeds, int)
        seeded = {"seed": seeds} if one else {"seeds": list(seeds)}  # type: ignore[arg-type]
        name = f"{self._sized(arm)}.s{seeds}" if one else self._sized(arm)
        judged = {"hold-out-of": plan.domain} if "hold-out" in plan.arm_training else {}  # the same rows in all arms
        how = {**(until or {"epochs": plan.epochs}), **seeded, **plan.arm_training, **judged}
        return self._finetune(name, rows, how)

    def _own(self, name: str) -> str:
        return f"{self.plan.prefix}{name}"

    def _sized(self, name: str) -> str:
        """The name of a selection or a run, with its size; `domain` has none."""
        return name if name == "domain" else f"{name}{self.plan.label}"

    def _finetune(self, name: str, rows: Sequence[str], how: Mapping[str, Any], *, shape: bool = True) -> Step:
        plan = self.plan
        values = {"model": plan.model, "train": list(rows), "name": self._own(name), **how}
        training = plan.training if shape else {}
        return Step("finetune", plan.store, {**values, **training, **plan.common, **plan.rows_as, **plan.domain_data})

    def _featurize(self, data: str, how: Mapping[str, Any], adapter: str = "warmup") -> Step:
        plan = self.plan
        place, reading = (plan.domain, plan.domain_data) if data == "domain" else (plan.pool, plan.pool_data)
        values = {"data": place, "name": self._own(data), **how, "model": plan.model, "adapter": self._own(adapter)}
        return Step("featurize", plan.store, {**values, **plan.common, **plan.rows_as, **reading})

    def _score(self, name: str, how: Mapping[str, Any], *, domain: bool = True) -> Step:
        plan = self.plan
        sides = {"pool": self._own("pool"), **({"domain": self._own("domain")} if domain else {})}
        if not plan.needs_features:
            files = {"pool": plan.pool, "domain": plan.domain}
            sides = {side: f"{known}={files[side]}" for side, known in sides.items()} | dict(plan.pool_data)
        return Step("score", plan.store, {**sides, **how, "name": self._own(name)})

    def _select(
        self, score: str, name: str, *, n: int | None = None, only: str | None = None, exclude: Sequence[str] = ()
    ) -> Step:
        size: dict[str, Any] = {"n": n} if n is not None else self._budget(name)
        more = {} if only is None else {"only": [only]}
        more |= {"exclude": list(map(self._own, exclude))} if exclude else {}
        kept_out = {"against": list(self.plan.against)} if self.plan.against else {}
        return Step(
            "select", self.plan.store, {"score": self._own(score), **size, "name": self._own(name), **more, **kept_out}
        )

    def _budget(self, name: str) -> dict[str, Any]:
        """How many rows a selection takes: of equal tokens, but `n` rows, as many tokens as the first selection."""
        plan = self.plan
        if plan.budget.tokens is not None:
            return {"token-budget": plan.budget.tokens, "tokens-of": "embed"}
        measured = self._measured()
        if plan.equal != "tokens" or name == measured:
            return {"n": plan.budget.n}
        return {"match-tokens": self._own(measured), "tokens-of": "embed"}

    def _measured(self) -> str:
        """The selection of the arm that others have as many tokens as."""
        plan, measure = self.plan, self.plan.measure or ""
        if measure in plan.chosen:
            return self._sized(f"picked{probe_suffix(plan.probes[0])}")
        if measure in PER_SEED:
            return f"{self._sized(measure)}-s{plan.seeds_of(measure)[0]}"
        return self._sized(f"random-picked{probe_suffix(plan.probes[0])}" if measure == "random-selected" else measure)
