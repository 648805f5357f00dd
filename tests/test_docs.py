"""README and docs: their commands are typed, their links lead somewhere, their numbers are those of the records.

Set-up is what CI runs. Of the other commands one is run, on made-up images; each is composed and checked.
"""

from __future__ import annotations

import ast
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_words import TINY

import csa
from csa import evaluate, export, records, report
from csa.config.composer import build
from csa.config.composition import Tree
from csa.config.faults import UserError
from csa.config.identity import fingerprint, identity, run_folder
from csa.console import PlainConsole
from csa.data import __main__ as data
from csa.data.dataset import load_split
from csa.request import KEYS, configure, preflight
from csa.summary import next_commands, print_outset

ROOT = Path(__file__).parents[1]
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text() for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))
}
README = PAGES["README.md"]
SET_UP, COMMANDS = [], []
for page in PAGES.values():
    for block in re.findall(r"```bash\n(.*?)```", page, flags=re.DOTALL):
        for line in block.strip().splitlines():
            (SET_UP if "venv" in line else COMMANDS).append(line)


def test_the_set_up_is_two_commands_and_ci_runs_the_second():
    install, test = SET_UP
    assert install.endswith(".venv/bin/python -m csa.run")
    assert test.endswith(".venv/bin/python -m pytest")
    assert test.replace("pip install -e", "pip install --quiet -e") in (ROOT / ".ci" / "run").read_text()
    assert test in (ROOT / "CONTRIBUTING.md").read_text()


@pytest.mark.parametrize("line", sorted(set(COMMANDS)))
def test_a_command_is_one_that_csa_takes(line, tmp_path, monkeypatch):
    """As far as can be told without its data: composed, and every value checked."""
    monkeypatch.chdir(tmp_path)
    for name, content in re.findall(r"```yaml\n# (mine/\S+)\n(.*?)```", PAGES["docs/sweeps.md"], flags=re.DOTALL):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    program, entry, *words = shlex.split(line, comments=True)
    assert program == "csa"
    if entry == "run":
        multirun = "-m" in words
        options = {name: words.pop(words.index(name) + 1) for name in ("-cn", "--config-dir") if name in words}
        preflight(
            [word for word in words if "=" in word], options.get("-cn", "config"),
            config_dir=options.get("--config-dir"), multirun=multirun, to_run=False,
        )  # fmt: skip
    else:
        module = {"data": data, "report": report, "records": records, "evaluate": evaluate, "export": export}[entry]
        more = {"passes_over": KEYS} if entry == "data" else {}
        configure(words, extra=module.WORDS, takes=module.TAKES, **more)


def test_a_command_of_the_readme_runs(tmp_path):
    (line,) = [line for line in README.splitlines() if line.startswith("| `csa run dataset=cifar100_lt")]
    command = line.split("`")[1]
    words = [*shlex.split(command)[1:], "smoke=true", "tracking=none", "runtime.threads=1"]
    process = subprocess.run(
        [sys.executable, "-m", "csa", *words], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr
    assert list(tmp_path.glob("outputs/cifar100_lt/*/*/result.json"))


def test_a_report_is_written_even_where_nothing_was_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert report.main(["tracking=none"]) == 0
    assert "no finished run is recorded" in capsys.readouterr().err
    assert "39.1" in (tmp_path / "outputs/report/tables/table1.md").read_text()  # CE on CIFAR-100-LT, published


def test_the_output_in_the_readme_is_that_of_the_default_run(tmp_path):
    """All but the numbers, which training makes."""
    (shown,) = re.findall(r"```text\n(csa on digits_lt: .*?)```", README, flags=re.DOTALL)
    tree = Tree("config")
    config = build(tree.compose([]).config)
    split = load_split(config.dataset, tmp_path, download=False)
    folder = run_folder(config, fingerprint(identity(config, split.hash)))
    console = PlainConsole(record=True, width=100)
    print_outset(console, config, split, folder)
    assert shown.startswith(console.export_text())
    assert f"\nrecord: {folder}\n" in shown
    commands = [
        line.partition(" -m csa.")[2] or line.partition("csa ")[2] for line in next_commands(config, []).splitlines()
    ]
    assert [line.partition(" -m csa.")[2] for line in shown.splitlines()[-3:]] == commands[-3:]


def test_the_mistake_in_the_readme_is_told_so():
    (words, said) = re.findall(r"```text\n\$ csa run (.*?)\n(csa: .*?)\n```", README, flags=re.DOTALL)[0]
    with pytest.raises(UserError) as told:
        preflight(words.split())
    for line, fault in zip(said.splitlines()[1:], told.value.faults, strict=True):
        assert str(fault).startswith(line.strip().removesuffix("..."))


def test_the_numbers_of_the_readme_are_those_of_the_records():
    digits = (ROOT / "reports/tables/digits_lt_ratio_100.md").read_text()
    assert re.search(r"\| CSA \| 5 \| \*\*81\.7 ± [\d.]+\*\* \| \+9\.6 ± 6\.2 \| better \|.* 52\.7 \|", digits)
    assert "CSA has 81.7 % where cross-entropy has 72.1 (+9.6 ± 6.2), and 52.7 against 25.2" in README


def test_the_pages_made_of_the_configuration_are_current():
    made = runpy.run_path(str(ROOT / "docs" / "catalogue.py"))["pages"]()
    for path, text in made.items():
        assert (ROOT / "docs" / path).read_text() == text, "python docs/catalogue.py"


@pytest.mark.parametrize("page", [*PAGES, "CONTRIBUTING.md", "reports/README.md"])
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text()
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|href)="([^"]+)"', text)
    for link in links:
        path, _, anchor = link.partition("#")
        if not path.startswith("http"):
            target = (ROOT / page).parent / path if path else ROOT / page
            assert target.exists(), link
            if anchor:
                assert anchor in map(anchor_of, re.findall(r"^#+ (.*)$", target.read_text(), flags=re.MULTILINE)), link


def test_the_version_is_that_of_the_changelog_and_of_the_citation():
    assert f"## {csa.__version__} (" in (ROOT / "CHANGELOG.md").read_text()
    assert f"\nversion: {csa.__version__}\n" in (ROOT / "CITATION.cff").read_text()


def anchor_of(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_every_page_is_linked_from_the_readme():
    assert {name for name in PAGES if name.startswith("docs/")} <= set(re.findall(r"\((docs/\w+\.md)", README))


def test_the_messages_that_are_explained_are_those_of_the_code():
    texts = "\n".join(
        "".join(part.value for part in ast.walk(node) if isinstance(part, ast.Constant) and isinstance(part.value, str))
        for path in (ROOT / "csa").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.JoinedStr | ast.Constant)
    )
    (table,) = re.findall(r"\| message .*?\n\n", PAGES["docs/troubleshooting.md"], flags=re.DOTALL)
    messages = re.findall(r"^\| `(.*?)`", table, flags=re.MULTILINE)
    assert len(messages) > 10
    for message in messages:
        for piece in re.split(r"\.\.\.|; ", message):
            assert piece.strip() in texts, piece


def test_the_python_is_typed_line_by_line(tmp_path, monkeypatch):
    """As it stands, of shorter runs; what its lines show is what their comments say."""
    (python,) = re.findall(r"```python\n(.*?)```", PAGES["docs/python.md"], flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    csa.train("method=ce", *TINY)
    typed = python.replace('"seed=0")', '"seed=0", *TINY)').replace('"3f2a"', "run.fingerprint[:4]")
    known = {"TINY": TINY, "images": np.zeros((2, 16, 16, 1), dtype=np.uint8)}
    shown = []
    for line in ast.parse(typed).body:
        if isinstance(line, ast.Expr):
            shown.append(eval(ast.unparse(line), known))
        else:
            exec(ast.unparse(line), known)
    report_, confusion, table, compared = shown
    assert list(report_.columns) == ["training images", "group", "uniform", "balanced", "mean"]
    assert confusion.to_numpy().sum() == 10 * 5
    assert known["probabilities"].sum(1) == pytest.approx([1, 1], abs=1e-5)
    assert known["network"](__import__("torch").zeros(3, 1, 16, 16)).shape == (3, 10)
    assert known["run"].method == "csa"
    assert list(table["line"]) == ["CE", "CSA"]
    assert table["difference"].iloc[1] == pytest.approx(compared["difference"].iloc[0])
    assert list(known["frame"]["head"]) == ["classifier", "uniform", "balanced", "mean"]
