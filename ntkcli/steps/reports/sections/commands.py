"""The commands that made the store, rebuilt from the specs of what they made."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from typing import Any, Final

import store
from ntkcli.data.references import split_weight
from ntkcli.steps.diagnosis.keep import is_result
from ntkcli.steps.diagnosis.request import Request, flag
from ntkcli.steps.reports.blocks import Block, Commands, Notice, Paragraph
from ntkcli.steps.reports.collect import READING, Facts, spec_value

Words = list[str]
_TRAINING: Final = (
    *("epochs", "max_tokens", "lr", "schedule", "warmup", "rank", "alpha", "target_modules", "batch_size", "hold_out"),
    "patience",
)
"""Of the spec of every training."""


def commands(facts: Facts) -> list[Block]:
    """The commands in the order in which they began, each once."""
    done = sorted((made for made in facts.made if made.kind in _WORDS), key=lambda made: made.began)
    lines: list[str] = []
    for made in done:
        line = facts.attempt(made.name, _command, facts, made.name)
        if line is not None and line not in lines:
            lines.append(line)
    if not lines:
        line = (
            f"ntksel featurize {shlex.quote(str(facts.stored.path))} --data FILE --name POOL --model MODEL --kind ntk"
        )
        return [Notice("missing", "No command has left a result yet.", line)]
    said = "Rebuilt from what the store has on record; options that change no value are left out, words in capitals "
    said += "stand for what it does not have. Run again in this order, each finished step is found and skipped."
    return [Paragraph(said), Commands(tuple(lines))]


def _command(facts: Facts, name: str) -> str | None:
    artefact = facts.stored.get(name)
    if artefact.kind == store.Kind.DIAGNOSIS and not is_result(artefact):
        return None  # what a diagnosis computed on the way to its result
    verb, make = _WORDS[str(artefact.kind)]
    return shlex.join(["ntksel", verb, str(facts.stored.path), *make(facts, artefact, name.split("/")[1:])])


def diagnose_words(artefact: store.Artefact) -> Words:
    """The diagnosis that left this result, and the options that it was given."""
    words, options = [str(artefact.spec["diagnosis"])], artefact.attrs["options"]
    for name, value in ((name, options[name]) for name in Request.__dataclass_fields__ if name in options):
        if name in ("score", "run"):
            words += [word for each in value for word in (flag(name), str(each))]
        else:
            words += _option(flag(name), value)
    return words


def _option(option: str, value: Any) -> Words:
    if isinstance(value, bool):
        return [option, "on" if value else "off"] if option == "--thinking" else [option] * value
    if isinstance(value, dict):
        value = [f"{known}={own}" for known, own in value.items()]
    return [option, ",".join(map(str, value)) if isinstance(value, list) else str(value)]


def _featurize(facts: Facts, artefact: store.Artefact, names: Words) -> Words:
    spec = artefact.spec
    words = ["--data", _attribute(facts, f"datasets/{names[0]}", "source") or "FILE", "--name", names[0]]
    words += ["--feature", names[1], "--kind", str(spec.get("kind")), *_model(facts, artefact)]
    words += _one("--adapter", _parent(artefact, "runs") or artefact.attrs.get("adapter"))
    fresh = spec_value(spec, "adapter", "fresh") or {}
    words += _some(fresh, "rank", "target_modules") + _one("--adapter-seed", fresh.get("seed"))
    words += _one("--rows", _parent(artefact, "selections"))
    words += _encoding(artefact)
    words += _one("--dim", spec_value(spec, "projection", "dim")) + _one(
        "--seed", spec_value(spec, "projection", "seed")
    )
    words += _some(spec, "positions", "probe", "probes", "layers", "pooling", "store_dtype")
    return words + [f"--{flag}" for flag in ("adam", "losses") if flag in spec]


def _score(_: Facts, artefact: store.Artefact, names: Words) -> Words:
    pool, spec = str(artefact.attrs["data"]), artefact.spec
    features = [name.split("/")[1:] for name in artefact.parents if name.startswith("features/")]
    plain = [name.split("/")[1] for name in artefact.parents if name.startswith("datasets/")]
    domains = [data for data, _ in features if data != pool] or [data for data in plain if data != pool]
    words = ["--pool", pool]
    words += [word for domain in dict.fromkeys(domains) for word in ("--domain", domain)]
    words += [word for data, feature in features if data == pool for word in ("--feature", feature)]
    words += _one("--rows", _parent(artefact, "selections"))
    words += ["--method", str(spec.get("method")), "--name", names[0]]
    words += _one("-k", spec.get("k")) + _some(spec, "subspace", "whiten")
    if spec_value(spec, "groups", "by") == "source":
        words += ["--group-by", "source"]
    words += _one("--across", spec_value(spec, "groups", "across"))
    return words + [f"--{flag}" for flag in ("centre", "residual") if spec.get(flag)]


def _select(_: Facts, artefact: store.Artefact, names: Words) -> Words:
    spec = artefact.spec
    words = ["--score", _parent(artefact, "scores") or "SCORE", "--name", names[0], *_one("-n", spec.get("n"))]
    words += _some(spec, "method", "exponent", "token_budget", "min_tokens", "max_tokens", "dedup", "candidates")
    words += ["--centre"] if spec.get("centre") else []
    # Of their rows the store has a digest alone.
    words += [word for key in ("exclude", "must_include", "only") if key in spec for word in (_flag(key), "ROWS")]
    for option in ("max_per_source", "min_per_source"):
        words += [word for each in spec.get(option) or [] for word in (_flag(option), str(each))]
    return words


def _finetune(facts: Facts, artefact: store.Artefact, names: Words) -> Words:
    words, spec = _model(facts, artefact), artefact.spec
    train = [str(each) for each in artefact.attrs.get("train", [])]
    first = len(train) - len(spec.get("then") or [])
    words += [word for i, each in enumerate(train) for word in ("--train" if i < first else "--then", each)]
    words += ["--name", names[0], *_encoding(artefact), *_some(spec, *_TRAINING, "seed", "max_steps", "loss_per")]
    words += ["--pack"] if "packed" in spec else []
    if spec.get("init_adapter"):
        words += ["--init-adapter", _parent(artefact, "runs") or "ADAPTER"]
    if not spec.get("hold_out"):
        return [*words, "--average-weights"] if spec.get("average_weights") else words
    words += _one("--checkpoint-steps", spec.get("checkpoint_steps"))
    place = spec.get("hold_out_of")
    return words + (_one("--hold-out-of", split_weight(train[place])[0]) if place is not None and train else [])


def _diagnose(_: Facts, artefact: store.Artefact, __: Words) -> Words:
    return diagnose_words(artefact)


def _validate(facts: Facts, artefact: store.Artefact, names: Words) -> Words:
    spec, said = artefact.spec, artefact.attrs
    words = [word for score in said["scores"] for word in ("--score", str(score))]
    words += [*_model(facts, artefact), "--domain", str(said.get("domain", "DOMAIN")), "--name", names[0]]
    words += [word for task in said.get("files", []) for word in ("--task", str(task))]
    words += _some(spec.get("folds") or {}, "folds", "by")
    edges, design = spec["bins"], "both" if spec["bins"] and spec["subsets"] else "bins" if spec["bins"] else "subsets"
    equal = [100 * (i + 1) / len(edges) for i in range(len(edges))]
    words += ["--design", design, *(["--bins", str(len(edges)) if edges == equal else _csv(edges)] if edges else [])]
    words += [*_one("--subsets", spec["subsets"] or None), "--seeds", _csv(spec["seeds"])]
    words += _one("--oracle", said.get("oracle")) + _encoding(artefact)
    words += [*_some(spec, "rows", "domain_repeat", "dtype", *_TRAINING), "--loss-per", spec.get("loss_per", "token")]
    words += _one("--init-adapter", _parent(artefact, "runs"))
    if not spec["hold_out"]:
        words.append("--average-weights" if spec.get("average_weights") else "--no-average-weights")
    return words


def _eval(facts: Facts, artefact: store.Artefact, names: Words) -> Words:
    runs = [made.name.split("/")[2] for made in facts.made if made.name.startswith(f"evals/{names[0]}/")]
    words = [*_model(facts, artefact), "--name", names[0]]
    words += _encoding(artefact)
    words += [word for task in artefact.attrs.get("files", []) for word in ("--task", str(task))]
    return words + [word for run in sorted(runs, key=lambda run: (run != "base", run)) for word in ("--run", run)]


_WORDS: Final[dict[str, tuple[str, Callable[[Facts, store.Artefact, Words], Words]]]] = {
    "features": ("featurize", _featurize),
    "score": ("score", _score),
    "selection": ("select", _select),
    "run": ("finetune", _finetune),
    "eval": ("eval", _eval),
    "validation": ("validate", _validate),
    "diagnosis": ("diagnose", _diagnose),
}
"""Kind of an artefact -> its verb and the options that made it."""


def _model(facts: Facts, artefact: store.Artefact) -> Words:
    """The model as it was named for this artefact, or for another one that has the same model."""
    named = artefact.attrs.get("model")
    if not named:
        same = (made for made in facts.made if made.kind in ("features", "run"))
        named = next(
            (found for made in same if (found := _model_of(facts, made.name, artefact.spec.get("model")))), "MODEL"
        )
    return ["--model", str(named)]


def _model_of(facts: Facts, name: str, model: Any) -> str:
    try:
        found = facts.stored.get(name)
        return str(found.attrs.get("model", "")) if found.spec.get("model") == model else ""
    except READING:
        return ""


def _attribute(facts: Facts, name: str, attribute: str) -> str:
    try:
        return str(facts.stored.get(name).attrs.get(attribute, ""))
    except READING:
        return ""


def _parent(artefact: store.Artefact, place: str) -> str | None:
    """The name of the artefact of that kind that it was made from."""
    return next((name.partition("/")[2] for name in artefact.parents if name.startswith(f"{place}/")), None)


def _one(option: str, value: object) -> Words:
    return [] if value is None else [option, str(value)]


def _some(spec: dict[str, Any], *keys: str) -> Words:
    return [word for key in keys for word in _one(_flag(key), spec.get(key))]


def _flag(key: str) -> str:
    return f"--{key.replace('_', '-')}"


def _encoding(artefact: store.Artefact) -> Words:
    """How rows became tokens."""
    found = spec_value(artefact.spec, "encoder") or {}
    thinking = found.get("thinking")
    return _some(found, "max_length", "text_as") + (
        [] if thinking is None else ["--thinking", "on" if thinking else "off"]
    )


def _csv(values: Sequence[Any]) -> str:
    return ",".join(f"{value:g}" for value in values)
