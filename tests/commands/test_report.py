"""`ntksel report` end to end on a tiny model: files, JSON, the commands it shows, and exit codes."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

from tests.app_commands import COMMANDS
from tests.commands.conftest import Cli
from tests.conftest import Writer, choice_rows, prompt_rows

VALIDATION = ["--design", "bins", "--bins", "40,100", "--rows", "4", "--seeds", "0,3", "--epochs", "1", "--rank", "1"]


def test_report_of_a_whole_chain(cli: Cli, tmp_path: Path, model_dir: Path, write_jsonl: Writer) -> None:
    med, on = tmp_path / "med", ["--model", model_dir]
    pool = write_jsonl("pool.jsonl", prompt_rows(24, seed=1, source="general"))
    domain = write_jsonl("domain.jsonl", prompt_rows(8, seed=2))
    test = write_jsonl("test.jsonl", choice_rows(6))
    features = ["--kind", "ntk", *on, "--dim", "16"]
    for command in (
        ["featurize", med, "--data", pool, "--name", "pool", *features],
        ["featurize", med, "--data", domain, "--name", "domain", *features],
        ["score", med, "--pool", "pool", "--domain", "domain", "--method", "cosine", "--name", "s"],
        ["select", med, "--score", "s", "-n", "6", "--name", "c", "--leaks", "ignore"],
        ["finetune", med, *on, "--train", "c", "--name", "r", "--epochs", "1", "--rank", "1"],
        ["eval", med, *on, "--task", test, "--name", "e", "--run", "base", "--run", "r"],
        ["validate", med, *on, "--score", "s", "--domain", domain, "--task", test, "--name", "v", *VALIDATION],
    ):
        assert cli(*command).code == 0
    html, md = tmp_path / "r.html", tmp_path / "r.md"
    ran = cli("report", med, "--html", html, "--md", md, "--json")
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    assert found["html"] == str(html)
    assert found["md"] == str(md)
    assert found["bytes"] == html.stat().st_size + md.stat().st_size
    assert found["missing"] == ["diagnoses"]
    assert found["damaged"] == []
    assert {"funnel", "map", "rows", "training", "results", "cost"} <= set(found["sections"])

    text = md.read_text(encoding="utf-8")
    assert "24 rows in the pool → 24 usable rows → 24 rows with a score → 6 chosen rows" in text
    shown = re.findall(r"^    (ntksel .*)$", text, re.MULTILINE)
    verbs = [shlex.split(line)[1] for line in shown]
    assert verbs == ["featurize", "featurize", "score", "select", "finetune", "eval", "validate"]
    for line in shown:  # every option that it shows is one of the command, with a value that it takes
        words = shlex.split(line)
        COMMANDS[words[1]].make_context(words[1], words[2:], resilient_parsing=False)
    for line in shown[:4]:  # made with these very settings: found, and nothing is computed
        again = cli(*shlex.split(line)[1:])
        assert again.code == 0, again.err
    for line in (shown[4], shown[-1]):
        assert cli(*shlex.split(line)[1:]).code == 0


def test_report_goes_to_the_store_by_default(cli: Cli, tmp_path: Path, write_jsonl: Writer) -> None:
    from ntkcli.steps.shared.stores import open_store

    med = tmp_path / "med"
    open_store(med, create=True)
    ran = cli("report", med)
    assert ran.code == 0
    assert str(med / "reports/report.html") in ran.out
    assert "nothing yet for funnel" in ran.out
    mine = tmp_path / "mine.md"
    mine.write_text("my notes")
    refused = cli("report", med, "--md", mine)
    assert refused.code == 2
    assert "--force" in refused.error_line
    assert mine.read_text() == "my notes"
    assert cli("report", med, "--selection", "none").code == 10
    assert cli("report", tmp_path / "nothing").code == 10
