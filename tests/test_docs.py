"""The documents against the program: every command that they show parses, every command is documented."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from ntkcli.help_panels import LONG
from tests.app_commands import COMMANDS

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [
    "README.md",
    "CONTRIBUTING.md",
    *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md")),
    *map(str, (ROOT / "examples").glob("*.sh")),
]


def shown_commands(path: Path) -> list[str]:
    """Lines that begin with `ntksel` (or `$ ntksel`), their continuations joined."""
    text = re.sub(r"\\\n\s*", " ", path.read_text(encoding="utf-8"))
    return [m[1] for m in re.finditer(r"^\s*(?:\$ )?(ntksel [a-z].*)$", text, re.MULTILINE)]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_shown_commands_parse(document: str) -> None:
    for shown in shown_commands(ROOT / document):
        line = shown.replace('"${on[@]}"', "--model M --max-length 160")
        plain = line.replace('"${features[@]}"', "--data F --name N --kind ntk --model M")
        words = shlex.split(plain.split(" >")[0], comments=True)
        if "[OPTIONS]" in words:
            continue  # a line of usage in docs/cli.md
        command = COMMANDS[words[1]]
        command.make_context(words[1], words[2:], resilient_parsing=False)


def test_readme_shows_the_whole_chain() -> None:
    verbs = {line.split()[1] for line in shown_commands(ROOT / "README.md")}
    assert {"featurize", "score", "select", "finetune", "eval", "info"} <= verbs


def test_every_command_has_help_with_two_examples_that_parse() -> None:
    for name, command in COMMANDS.items():
        assert command.help
        shown = re.findall(rf"^ntksel {name}\b.*$", command.epilog, re.MULTILINE)
        assert len(shown) >= 2, f"the help of {name} ends in two examples"
        for line in shown:
            command.make_context(name, shlex.split(line)[2:], resilient_parsing=False)
        for option in command.params:
            assert getattr(option, "help", None), f"{name} {option.name} has no help"


def test_reference_is_current(tmp_path: Path) -> None:
    made = tmp_path / "cli.md"
    subprocess.run(
        [sys.executable, "-m", "typer", "ntkcli.app", "utils", "docs", "--name", "ntksel", "--output", str(made)],
        check=True,
        capture_output=True,
    )
    assert made.read_text() == (ROOT / "docs/cli.md").read_text(), "run `make docs`"


def test_two_commands_are_what_the_readme_promises() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in ("demo", "test"):
        assert f"make {target}" in readme
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_store_format_names_every_array() -> None:
    """The arrays that the steps write stand in the specification."""
    specification = (ROOT / "docs/store-format.md").read_text(encoding="utf-8")
    for path in (ROOT / "ntkcli/steps").rglob("*.py"):
        for name in re.findall(r'"(\w+)": store\.ArraySpec', path.read_text(encoding="utf-8")):
            assert name in specification, f"{path.name} writes {name}"


def test_readme_is_short_and_its_links_exist() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(readme.splitlines()) <= 120
    linked = re.findall(r"\]\(([^)#]+)\)", readme)
    assert "docs/images/overview.svg" in linked
    for target in linked:
        assert target.startswith("https://") or (ROOT / target).is_file(), target


@pytest.mark.parametrize("document", [each for each in DOCUMENTS if each.endswith(".md")])
def test_files_of_the_source_that_are_named_exist(document: str) -> None:
    """A file that was moved is named by its new path. benchmarks/figures is what the scripts write."""
    text = (ROOT / document).read_text(encoding="utf-8")
    for path in re.findall(
        r"\b(?:tests|ntkcli|benchmarks|store|examples|tools)/[\w/.-]+\.(?:py|sh|sbatch|ipynb)\b", text
    ):
        assert (ROOT / path).is_file(), f"{document} names {path}"


def test_figures_of_the_picture_are_in_the_results() -> None:
    picture = (ROOT / "docs/images/overview.svg").read_text(encoding="utf-8")
    results = (ROOT / "docs/results.md").read_text(encoding="utf-8")
    number = r"[+\u2212.\d]+"
    figures = re.findall(rf">({number} \({number} to {number}\))<", picture)
    assert len(figures) == 6
    for figure in figures:
        assert figure in results.replace("*", ""), figure


def test_every_page_is_in_the_sites_navigation() -> None:
    site = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert re.search(rf": {page.name}$", site, re.MULTILINE), f"{page.name} is not in mkdocs.yml"


def test_long_option_lists_are_grouped() -> None:
    for name, command in COMMANDS.items():
        options = [each for each in command.params if each.param_type_name == "option"]
        if len(options) > LONG:
            loose = {each.opts[0] for each in options if each.rich_help_panel is None}
            assert loose <= {"--name"}, f"{name}: add {loose} to ntkcli/help_panels.py"
