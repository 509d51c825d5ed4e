"""What every option of every verb that makes artefacts does to values: the declaration that test_every_option proves.

An option's cases are tried on a command of `COMMANDS` (its verb's first, or the one named):
    Value   it can change a value: the same name with it is refused with exit 12
    Same    speed and form only: the same name is found finished, and another name holds the same bytes
    Renamed the same, where the option itself changes the name
    Close   the same, but sums are made in another order: equal within rounding
    Shown   what is printed or written outside of the store: the same name is found finished, nothing in it changes
    Name    it says where the result goes
A word in braces is a path of the test's folder.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    words: str
    on: str = ""
    more: tuple[str, ...] = ()
    """Further commands of the same option that complete the result, as shards do."""


class Value(Case):
    """A change is refused."""


class Same(Case):
    """A change leaves bytes equal."""


class Renamed(Same):
    """The same, but the result has another name."""


class Close(Case):
    """A change leaves values equal within rounding."""


class Shown(Case):
    """A change is not of the artefact."""


class Name(Case):
    """Where the result goes."""


NAME = (Name(""),)
PRINTS = {
    "json": (Shown("--json"),),
    "quiet": (Shown("--quiet"),),
    "verbose": (Shown("--verbose"),),
    "help": (Name(""),),
}
RUNS_MODEL = {
    "dtype": (Value("--dtype bfloat16"),),
    "device": (Same("--device cpu"),),
    "batch_tokens": (Close("--batch-tokens 40"),),
    "max_length": (Value("--max-length 40"),),
    "thinking": (Value("--thinking off"), Value("--thinking on")),
    "on_error": (Same("--on-error skip"),),
    "trust_remote_code": (Same("--trust-remote-code"),),  # of a model with code: tests/commands/test_remote_code.py
    "dry_run": (Shown("--dry-run"),),
}
RAY = (Name(""),)
"""Who computes the parts, which are the same bytes: tests/steps/cluster."""
RANKS = (Name(""),)
"""For several processes: tests/commands/test_shared_model.py."""

COMMANDS: dict[str, dict[str, str]] = {
    "featurize": {
        "ntk": "--data {pool.jsonl} --name pool --kind ntk --model {m} --dim 64 --probe rademacher",
        "loss": "--data {pool.jsonl} --name pool --kind loss --model {m} --dim 64 --adapter warm --feature loss",
        "embed": "--data {pool.jsonl} --name pool --kind embed --model {m}",
        "kept": "--data {pool.jsonl} --name pool --kind embed --model {m} --adapter warm --losses --feature kept",
        "folder": "--data {folder} --name parts --split train --kind embed --model {m}",
        "text": "--data {texts.jsonl} --name texts --kind embed --model {m}",
    },
    "score": {
        "cosine": "--pool pool --domain domain --feature embed --method cosine --name cosine",
        "nothing": "",
        "votes": "--pool pool --domain domain --feature embed --method votes -k 2 --name votes",
        "groups": "--pool pool --domain domain --feature embed --method max --group-by source --name groups",
        "random": "--pool pool --method random --name random",
        "length": "--pool pool --method random --match-length picked --name length",
        "dsir": "--pool pool --domain domain --method dsir --name dsir",
        "mean": "--pool pool --domain domain --method mean --name mean",
        "exact": "--pool pool --domain domain --method exact --name exact",
        "gist": "--pool pool --domain domain --feature embed --method gist --name gist",
        "drop": "--pool pool --feature kept --method drop --name drop",
        "kept": "--pool pool --domain domain --feature kept --method cosine --name kept",
        "combine": "--combine cosine --combine random --name combine",
    },
    "select": {
        "top": "--score cosine -n 4 --name picked",
        "budget": "--score cosine --token-budget 200 --name budget",
        "against": "--score cosine -n 4 --against {test.jsonl} --name against",
        "coverage": "--score cosine -n 4 --method coverage --name coverage",
    },
    "finetune": {
        "run": "--model {m} --train {domain.jsonl} --epochs 1 --rank 2 --batch-size 4 --name run",
        "held": "--model {m} --train {domain.jsonl} --epochs 2 --rank 2 --batch-size 4 --hold-out 0.4 "
        "--checkpoint-steps 1 --name held",
        "folder": "--model {m} --train {folder} --split train --epochs 1 --rank 2 --name folder",
        "tokens": "--model {m} --train {domain.jsonl} --max-tokens 400 --rank 2 --name tokens",
        "matched": "--model {m} --train {domain.jsonl} --match-tokens warm --rank 2 --name matched",
        "steps": "--model {m} --train {domain.jsonl} --max-steps 3 --rank 2 --name steps",
        "as_many": "--model {m} --train {domain.jsonl} --match-steps warm --rank 2 --name as_many",
        "selected": "--model {m} --train picked --epochs 1 --rank 2 --name selected",
        "sweep": "--model {m} --train {domain.jsonl} --epochs 1 --rank 2 --batch-size 4 --lr-find --lr-rates 1e-4,1e-3 "
        "--name sweep",
        "raw": "--model {m} --train {texts.jsonl} --text-as raw --max-length 60 --epochs 1 --rank 2 --name raw",
    },
    "validate": {
        "bins": "--score cosine --model {m} --domain {domain.jsonl} --task {test.jsonl} --design bins --bins 2 "
        "--rows 2 --seeds 0 --epochs 1 --rank 2 --name bins",
        "held": "--score cosine --model {m} --domain {domain.jsonl} --task {test.jsonl} --bins 2 --subsets 10 "
        "--rows 2 --seeds 0 --rank 2 --hold-out 0.3 --name held",
        "folds": "--score cosine --model {m} --domain {domain.jsonl} --folds 2 --design bins --bins 2 --rows 2 "
        "--seeds 0 --epochs 1 --rank 2 --name folds",
        "folder": "--score cosine --model {m} --domain {folder} --split train --folds 2 --design bins --bins 2 "
        "--rows 2 --seeds 0 --epochs 1 --rank 2 --name folder",
    },
    "eval": {
        "choices": "--model {m} --run base --run warm --task {test.jsonl} --name choices",
        "generate": "--model {m} --run base --task {written.jsonl} --max-new-tokens 4 --name generate",
        "loss": "--model {m} --run base --task {written.jsonl} --scorer loss --name loss",
        "folder": "--model {m} --run base --task {folder} --split train --scorer loss --name folder",
        "text": "--model {m} --run base --task {texts.jsonl} --scorer loss --name text",
        "harness": "--model {m} --run base --task lm_eval:{own_more.yaml} --name harness",
    },
}
"""Commands of each verb, the first the usual one; made once, in this order, with `warm`, `coarse` and all features."""

EFFECTS: dict[str, dict[str, tuple[Case, ...]]] = {
    "featurize": {
        "ray": RAY,
        "shard_model": RANKS,
        **RUNS_MODEL,
        **PRINTS,
        "store": NAME,
        "name": NAME,
        "feature": NAME,
        "data": NAME,  # repeatable: tests/steps/features/test_growth.py
        "kind": (Value("--kind loss --feature ntk --probe sum"),),
        "model": (Value("--model {other}"),),
        "adapter": (Value("--adapter warm"), Value("--adapter warm", on="embed"), Value("--adapter run", on="loss")),
        "rows": (Value("--rows coarse"), Value("--rows coarse", on="embed")),
        "positions": (Value("--positions all"), Value("--positions last", on="embed")),
        "pooling": (Value("--pooling weighted", on="embed"), Value("--pooling last", on="embed")),
        "probe": (Value("--probe centred"), Value("--probe sum")),
        "probes": (Value("--probes 2"),),
        "layers": (Value("--layers last:1"), Value("--layers 0", on="loss")),
        "projection": (Value("--projection none"), Value("--projection rademacher", on="loss")),
        "dim": (Value("--dim 32"), Value("--dim 32", on="loss")),
        "seed": (Value("--seed 1"), Value("--seed 1", on="loss")),
        "rank": (Value("--rank 3"),),
        "target_modules": (Value("--target-modules q_proj"),),
        "adapter_seed": (Value("--adapter-seed 1"),),
        "adam": (Value("--adam", on="loss"),),
        "losses": (Value("--losses"), Value("--losses", on="embed")),
        "store_dtype": (Value("--store-dtype float32"), Value("--store-dtype int8", on="embed")),
        "part_rows": (Close("--part-rows 3"),),
        "shard": (Same("--shard 1/2", more=("--shard 0/2",)),),
        "columns": (Value("--columns prompt=completion,completion=prompt"),),
        "split": (Value("--split test", on="folder"),),
        "text_as": (Value("--text-as raw", on="text"), Same("--text-as chat")),
    },
    "score": {
        "ray": RAY,
        "shard_model": RANKS,
        **PRINTS,
        "store": NAME,
        "name": NAME,
        "pool": (Value("--pool domain"), Value("--pool domain", on="random"), Value("--pool domain", on="dsir")),
        "domain": (Value("--domain pool"), Value("--domain pool", on="dsir")),
        "method": (  # repeatable, so a case is a whole command
            Value("--pool pool --domain domain --feature embed --method max --name cosine", on="nothing"),
            Value("--pool pool --domain domain --feature embed --method mean --name cosine", on="nothing"),
            Value("--pool pool --domain domain --feature embed --method rds -k 2 --name votes", on="nothing"),
            Value("--pool pool --domain domain --method bm25 --name dsir", on="nothing"),
            Value("--pool pool --domain domain --feature embed --method mean=cosine --method max=m", on="nothing"),
        ),
        "group_by": (Value("--group-by source"), Value("--group-by source", on="dsir")),
        "across": (Value("--across mean", on="groups"),),
        "feature": (Value("--feature embed", on="mean"),),
        "rows": (
            Value("--rows coarse"),
            Value("--rows coarse", on="random"),
            Value("--rows coarse", on="dsir"),
            Value("--rows coarse", on="drop"),
        ),
        "centre": (Value("--centre"), Value("--centre", on="votes")),
        "subspace": (Value("--subspace 2", on="gist"),),
        "whiten": (Value("--whiten 0.1"),),
        "residual": (Value("--residual", on="kept"),),
        "k": (Value("-k 3", on="votes"),),
        "seed": (Value("--seed 1", on="random"), Value("--seed 1", on="dsir"), Value("--seed 1", on="length")),
        "match_length": (Value("--match-length domain", on="length"), Value("--match-length picked", on="random")),
        "tokens_of": (Value("--tokens-of {m}", on="length"),),
        "combine": (Value("--combine cosine --combine votes", on="combine"),),
        "compare": (Shown("--compare cosine --compare votes", on="nothing"),),
        "n": (Shown("-n 3 --compare cosine --compare votes", on="nothing"),),
        "plot": (Shown("--plot {agree.svg} --compare cosine --compare votes", on="nothing"),),
        "force": (Shown("--force --plot {foreign.svg} --compare cosine --compare votes", on="nothing"),),
        "dtype": (Value("--dtype bfloat16", on="exact"),),
        "device": (Same("--device cpu", on="exact"),),
        "batch_tokens": (Close("--batch-tokens 40", on="exact"),),
        "on_error": (Same("--on-error skip"),),
        "data": (Same("--data pool={copy.jsonl}", on="dsir"), Same("--data pool={copy.jsonl}", on="exact")),
    },
    "select": {
        **PRINTS,
        "store": NAME,
        "name": NAME,
        "score": (Value("--score votes"),),
        "n": (Value("-n 3"), Value("-n auto")),
        "method": (Value("--method herding"), Value("--method ot", on="coverage")),
        "exponent": (Value("--exponent 0.3", on="coverage"),),
        "max_per_source": (Value("--max-per-source 2"),),
        "min_per_source": (Value("--min-per-source 1"),),
        "token_budget": (Value("--token-budget 150"), Value("--token-budget 150", on="budget")),
        "min_tokens": (Value("--min-tokens 3"),),
        "max_tokens": (Value("--max-tokens 90"),),
        "tokens_of": (Value("--tokens-of {m}", on="budget"),),
        "dedup": (Value("--dedup exact"), Value("--dedup minhash"), Value("--dedup 0.99")),
        "candidates": (Value("--candidates 6", on="coverage"),),
        "exclude": (Value("--exclude {ids.txt}"),),
        "only": (Value("--only source=a"), Value("--only {ids.txt} --only source=b", on="budget")),
        "match_tokens": (Value("--match-tokens against"),),
        "must_include": (Value("--must-include {ids.txt}"),),
        "against": (Value("--against {written.jsonl}", on="against"), Value("--against {test.jsonl}")),
        "leaks": (Value("--leaks report", on="against"),),
        "feature": (Value("--feature ntk", on="coverage"),),
        "domain": (Value("--domain pool", on="coverage"),),
        "centre": (Value("--centre", on="coverage"),),
        "export": (Shown("--export {out.jsonl}"),),
        "schema": (Shown("--format messages --export {out2.jsonl}"),),
        "export_scores": (Shown("--export-scores {scores.parquet}"),),
        "force": (Shown("--force --export {foreign.jsonl}"),),
        "data": (Same("--data pool={copy.jsonl}", on="against"), Shown("--data {copy.jsonl} --export {out3.jsonl}")),
        "explain": (Shown("--explain"),),
        "push_to_hub": NAME,  # tests/commands/test_push_to_hub.py
        "public": NAME,
    },
    "finetune": {
        **RUNS_MODEL,
        **PRINTS,
        "store": NAME,
        "name": NAME,
        "seeds": (Renamed("--seeds 1,0"),),
        "model": (Value("--model {other}"),),
        "train": (Value("--train {pool.jsonl}"), Value("--train {domain.jsonl}=2"), Value("--train picked")),
        "then": (Value("--then {pool.jsonl}"),),
        "epochs": (Value("--epochs 2"),),
        "max_tokens": (Value("--max-tokens 500", on="tokens"),),
        "match_tokens": (Value("--match-tokens folder", on="matched"),),
        "max_steps": (Value("--max-steps 5", on="steps"),),
        "match_steps": (Value("--match-steps run", on="as_many"),),
        "lr": (Value("--lr 0.002"),),
        "lr_find": (Shown("--lr-find --lr-rates 1e-4,1e-3 --lr-steps 1"),),
        "lr_rates": (Value("--lr-rates 1e-4,2e-3", on="sweep"), Value("--lr-rates 1e-4,1e-3,2e-3", on="sweep")),
        "lr_steps": (Value("--lr-steps 1", on="sweep"),),
        "schedule": (Value("--schedule linear"), Value("--schedule linear", on="sweep")),
        "warmup": (Value("--warmup 0.5"),),
        "rank": (Value("--rank 3"), Value("--rank 3", on="sweep")),
        "alpha": (Value("--alpha 7"),),
        "target_modules": (Value("--target-modules q_proj"),),
        "init_adapter": (Value("--init-adapter warm"),),
        "batch_size": (Value("--batch-size 3"),),
        "gradient_checkpointing": (Close("--gradient-checkpointing"),),
        "seed": (Value("--seed 1"),),
        "hold_out": (
            Value("--hold-out 0.3"),
            Value("--hold-out 0.5", on="held"),
            Value("--hold-out 0.5", on="sweep"),
        ),
        "hold_out_of": (Value("--hold-out-of {domain.jsonl}", on="held"),),
        "patience": (Value("--patience 1", on="held"),),
        "checkpoint_steps": (Same("--checkpoint-steps 1"), Value("--checkpoint-steps 2", on="held")),
        "keep_optimizer": (Same("--keep-optimizer"),),
        "keep_checkpoints": (Same("--keep-checkpoints"), Same("--keep-checkpoints", on="held")),
        "report_to": (Same("--report-to tensorboard"),),
        "push_to_hub": NAME,  # tests/commands/test_push_to_hub.py
        "public": NAME,
        "loss_per": (Value("--loss-per row"), Value("--loss-per row", on="sweep")),
        "average_weights": (Value("--average-weights"),),
        "pack": (Value("--pack"), Value("--pack", on="raw")),
        "text_as": (Value("--text-as chat", on="raw"), Same("--text-as chat")),
        "data": (Same("--data pool={copy.jsonl}", on="selected"),),
        "columns": (Value("--columns prompt=completion,completion=prompt"),),
        "split": (Value("--split test", on="folder"),),
    },
    "eval": {
        "ray": RAY,
        "shard_model": RANKS,
        **RUNS_MODEL,
        **PRINTS,
        "store": NAME,
        "name": NAME,
        "run": NAME,  # each run is an artefact of its own; another adapter under its name: test_inputs
        "model": (Value("--model {other}"),),
        "task": (Value("--task {written.jsonl}"),),
        "baseline": (Shown("--baseline warm"),),
        "retain": (Value("--retain {more.jsonl}"),),
        "scorer": (Value("--scorer generate"), Value("--scorer loss", on="generate")),
        "normalise": (Value("--normalise tokens"), Value("--normalise characters")),
        "max_new_tokens": (Value("--max-new-tokens 3", on="generate"),),
        "answer_pattern": (Value("--answer-pattern (r.d)", on="generate"),),
        "columns": (Value("--columns prompt=completion,completion=prompt", on="generate"),),
        "split": (Value("--split test", on="folder"),),
        "text_as": (Value("--text-as raw", on="text"), Same("--text-as chat")),
        "num_fewshot": (Value("--num-fewshot 1", on="harness"),),
        "limit": (Value("--limit 2", on="harness"),),
        "apply_chat_template": (Value("--apply-chat-template", on="harness"),),
        "force": (Shown("--force --export {foreign2.jsonl}"),),
        "per_class": (Shown("--per-class"),),
        "export": (Shown("--export {items.jsonl}"), Shown("--export {totals.json}")),
        "plot": (Shown("--plot {eval.svg}"), Shown("--plot {eval.png}")),
    },
    "validate": {
        "ray": RAY,
        **{option: cases for option, cases in RUNS_MODEL.items() if option != "on_error"},
        **PRINTS,
        "store": NAME,
        "name": NAME,
        "score": (Value("--score random"),),
        "model": (Value("--model {other}"),),
        "domain": (Value("--domain {written.jsonl}"),),
        "task": (Value("--task {more.jsonl}"),),
        "folds": (Value("--folds 3", on="folds"),),
        "by": (Value("--by source", on="folds"),),
        "design": (Value("--design subsets"),),
        "bins": (Value("--bins 3"),),
        "subsets": (Value("--subsets 11", on="held"),),
        "rows": (Value("--rows 3"),),
        "seeds": (Value("--seeds 1"),),
        "domain_repeat": (Value("--domain-repeat 2"),),
        "oracle": (Value("--oracle source=a"),),
        "epochs": (Value("--epochs 2"),),
        "max_tokens": (Value("--max-tokens 500", on="held"),),
        "lr": (Value("--lr 0.002"),),
        "schedule": (Value("--schedule linear"),),
        "warmup": (Value("--warmup 0.5"),),
        "rank": (Value("--rank 3"),),
        "alpha": (Value("--alpha 7"),),
        "target_modules": (Value("--target-modules q_proj"),),
        "init_adapter": (Value("--init-adapter warm"),),
        "batch_size": (Value("--batch-size 3"),),
        "gradient_checkpointing": (Close("--gradient-checkpointing"),),
        "loss_per": (Value("--loss-per token"),),
        "average_weights": (Value("--no-average-weights"),),
        "hold_out": (Value("--hold-out 0.3"), Value("--hold-out 0.5", on="held")),
        "patience": (Value("--patience 1", on="held"),),
        "text_as": (Same("--text-as chat"),),  # raw: tests/commands/test_raw_text.py
        "columns": (Value("--columns prompt=completion,completion=prompt", on="folds"),),
        "split": (Value("--split test", on="folder"),),
        "keep_runs": (Same("--keep-runs"),),
        "plot": (Shown("--plot {v.svg}"),),
        "export": (Shown("--export {v.csv}"), Shown("--export {v.json}")),
        "force": (Shown("--force --export {foreign.csv}"),),
    },
}
NO_ARTEFACTS = ("explain", "info", "query", "report", "tasks", "rm", "split", "merge", "push", "pull")
"""Verbs that make nothing that is kept under a fingerprint."""
ELSEWHERE = ("diagnose",)
"""Verbs whose options are tried in a file of their own: with results that have no name."""
CHAINS: dict[str, dict[str, str]] = {
    "arms": {
        "model": "--model {other}",
        "domain": "--domain {written.jsonl}",
        "task": "--task {more.jsonl}",
        "pool": "--pool {more.jsonl} -n 2",
        "n": "-n 2",
        "token_budget": "--token-budget 100 --coarse 6",
        "arms": "--arms base,random",
        "seeds": "--seeds 0,1",
        "baseline": "--baseline base",
        "draws": "--draws 2",
        "sizes": "--sizes 2,3",
        "rounds": "--rounds 2",
        "folds": "--folds 2",
        "by": "--folds 2 --by source",
        "equalise": "--equalise tokens",
        "domain_repeat": "--domain-repeat 2",
        "oracle": "--oracle source=a",
        "coarse": "--coarse 7",
        "preset": "--preset paper",
        "probe": "--probe sum",
        "probes": "--probes 2",
        "method": "--method max",
        "centre": "--no-centre",
        "dim": "--dim 64",
        "epochs": "--epochs 2",
        "warmup_epochs": "--warmup-epochs 2",
        "lr": "--lr 0.002",
        "rank": "--rank 3",
        "batch_size": "--batch-size 3",
        "schedule": "--schedule linear",
        "warmup": "--warmup 0.5",
        "alpha": "--alpha 7",
        "target_modules": "--target-modules q_proj",
        "loss_per": "--loss-per token",
        "average_weights": "--average-weights",
        "hold_out": "--hold-out 0.3",
        "patience": "--hold-out 0.3 --patience 1",
        "gradient_checkpointing": "--gradient-checkpointing",
        "max_length": "--max-length 40",
        "dtype": "--dtype bfloat16",
        "device": "--device cpu",
        "domain_split": "--domain {folder} --domain-split train",
        "pool_split": "--pool {folder} --pool-split train",
        "retain": "--retain {more.jsonl}",
        "on_error": "--on-error skip",
        "thinking": "--thinking off",
        "text_as": "--text-as raw --domain {texts.jsonl} --pool {documents.jsonl} -n 2",
        "trust_remote_code": "--trust-remote-code",
        "name": "--name others",
        "prefix": "--prefix p-",
        "store": "",
        "allow_overlap": "",
        "export": "",
        "force": "",
        "plot": "",
        "recipe": "",
        "dry_run": "",
        "ray": "",
        "json": "",
        "quiet": "",
        "verbose": "",
    },
    "run": dict.fromkeys(("recipe", "dry_run", "example", "ray", "json", "quiet", "verbose"), ""),
    "demo": dict.fromkeys(("folder", "seed", "json", "quiet", "verbose"), ""),
}
"""Verbs that run others and make nothing by themselves. Each option of arms that is not "" must change what it runs;
the others are of the output, or (`run`'s recipe, `demo`'s seed) are the commands and the files themselves."""
ARMS = (
    "--model {m} --domain {domain.jsonl} --pool {pool.jsonl} --task {test.jsonl} -n 3 "
    "--arms base,random,selected --dry-run --json"
)
