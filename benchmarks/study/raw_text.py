#!/usr/bin/env python
"""Raw text: do licences found in a mixed pool lower the perplexity of other licences? Passages of one length.

    python benchmarks/study/raw_text.py --folder DIR [--figures FILE.jsonl] [--seeds 0,1] [--draws 3] [--dry-run]

The domain is 16 passages of licences out of the package licensedcode-data, the test 60 of other licences; of the pool's
600 passages 48 are of licences, and the rest are general questions with their answers. Every passage has 96 tokens, so
no arm has longer texts than another. Every arm takes 48 passages of the pool and sees the domain's three times
(`ntksel arms`, which goes on where it was stopped).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).parents[1]))

from environment import describe
from supply import write_rows

from ntkcli.demo import demo_model_path
from ntkcli.demo.licences import licences
from ntkcli.demo.passages import AT_ONCE, joined, passages
from ntkcli.demo.pool import general
from ntkcli.demo.text import rank
from ntkcli.engine.models.loading import load_tokenizer
from ntkcli.identity import resolve_model
from ntkcli.selection.leaks import TestItems

TOKENS: Final = 96
DOMAIN, TEST, WANTED, GENERAL = 16, 60, 48, 552
ARMS: Final = "base,domain,domain-steps,random,oracle,embedding,bm25,selected"
TRAINING: Final = ["--epochs", "1", "--domain-repeat", "3", "--batch-size", "4", "--lr", "1e-3", "--loss-per", "row"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where texts and store are kept")
    parser.add_argument("--figures", type=Path, help="append the comparison to this file, as a line")
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--draws", type=int, default=3, help="of random passages")
    parser.add_argument("--model", help="default: the demo's SmolLM2-135M-Instruct")
    parser.add_argument("--dry-run", action="store_true", help="print what it would cost, run nothing")
    given = parser.parse_args()
    model = given.model or str(demo_model_path())
    files = text_files(given.folder, model)
    command = [sys.executable, "-m", "ntkcli", "arms", str(given.folder / "store"), "--model", model]
    command += ["--domain", files["domain"], "--pool", files["pool"], "--task", files["test"], "--text-as", "raw"]
    command += ["--oracle", "source=licence", "-n", str(WANTED), "--arms", ARMS, "--seeds", given.seeds]
    command += ["--draws", str(given.draws), *TRAINING, "--average-weights", "--max-length", "128"]
    command += ["--dtype", "bfloat16"]
    print(describe(), flush=True)
    if given.dry_run:
        subprocess.run([*command, "--dry-run"], check=True)
        return
    subprocess.run([*command, "--export", str(given.folder / "arms.json"), "--force"], check=True)
    if given.figures is not None:
        found = json.loads((given.folder / "arms.json").read_text(encoding="utf-8"))
        kept = {key: found[key] for key in ("baseline", "items", "scores", "sentences", "spent")}
        with given.figures.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"seeds": given.seeds, **kept, "environment": describe()}) + "\n")


def text_files(folder: Path, model: str) -> dict[str, str]:
    """The domain, the pool (its sources: `licence` and `general`) and the test: one passage a text."""
    tokenizer = load_tokenizer(resolve_model(model))
    found = list(passages(licences(0), tokenizer, tokens=TOKENS))
    test = found[:TEST]
    items = TestItems([row["text"] for row in test])
    licence = [row for row in found[TEST:] if items.find(row["text"]) is None]
    domain, wanted = licence[:DOMAIN], licence[DOMAIN : DOMAIN + WANTED]
    texts = joined(general(0, AT_ONCE * GENERAL))
    other = list(islice(passages(texts, tokenizer, tokens=TOKENS), GENERAL))
    if len(wanted) < WANTED or len(other) < GENERAL:
        raise SystemExit(f"only {len(licence)} licences and {len(other)} general texts have {TOKENS} tokens")
    pool = sorted([*wanted, *other], key=lambda row: rank(0, "pool", row["id"]))
    tables = {"domain": domain, "test": test, "pool": pool}
    return {name: str(write_rows(folder / f"{name}.jsonl", rows)) for name, rows in tables.items()}


if __name__ == "__main__":
    main()
