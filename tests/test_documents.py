"""What the README and the documents say: their code runs, and what they point at exists."""

from __future__ import annotations

import ast
import doctest
import importlib.util
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES += sorted((ROOT / "docs").glob("*.md"))
BLOCK = re.compile(r"^```([^\s`]*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INCLUDE = re.compile(r"^```\{include\} (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXCERPT = re.compile(r"# ([\w/]+\.py)\n")
RUN_ELSEWHERE = ["worked-examples.md"]  # tests/contract/test_worked_examples.py
# Run: python and pycon. Looked at: console (commands and options), py and sh. Sphinx: the rest.
KINDS = ("python", "pycon", "console", "py", "sh", "{include}", "{toctree}", "{eval-rst}")

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def blocks(page, kind):
    return [text for own, text in BLOCK.findall(page.read_text()) if own == kind]


def commands():
    """Each line of the console blocks, without its comment."""
    lines = (
        line for page in PAGES for text in blocks(page, "console") for line in text.split("\n")
    )
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def is_excerpt(text):
    return EXCERPT.match(text) is not None


def code_of(page):
    """What of a page is run, in its order: statements, and prompts with what they print."""
    found = BLOCK.findall(page.read_text())
    return [
        block for block in found if block[0] in ("python", "pycon") and not is_excerpt(block[1])
    ]


@pytest.fixture
def names(folder):
    """What pages use without a word: torch, logits, a model with its tokenizer and inputs."""
    transformers = pytest.importorskip("transformers")
    names = {name: getattr(transformers, name) for name in dir(transformers) if "Warper" in name}
    names |= {"torch": torch, "logits": torch.randn(3, 257), "ids": torch.zeros(3, 1).long()}
    names["model"] = transformers.AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    names["tokenizer"] = tokenizer
    names["inputs"] = tokenizer(["ab", "cd", "ef"], return_tensors="pt")
    names["model"].generation_config.max_new_tokens = 2
    return names


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if code_of(page) and page.name not in RUN_ELSEWHERE],
    ids=lambda page: page.name,
)
def test_the_code_of_a_page_runs(names, page):
    runner = doctest.DocTestRunner(verbose=False)
    for kind, text in code_of(page):
        if kind == "python":
            exec(text, names)
            continue
        block = doctest.DocTestParser().get_doctest(text, names, page.name, page.name, 0)
        printed = []
        runner.run(block, out=printed.append, clear_globs=False)
        assert not printed, "".join(printed)
        names.update(block.globs)
    outputs = names.get("outputs")  # transformers logs what fails there
    assert outputs is None or [output.error for output in outputs.values()] == [None, None]


def import_all_of(code):
    """What the code imports, of packages that are installed."""
    for node in ast.parse(code).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            root = node.names[0].name if isinstance(node, ast.Import) else node.module
            if importlib.util.find_spec(root.partition(".")[0]):
                exec(ast.unparse(node), {})


@pytest.mark.parametrize("script", sorted((ROOT / "docs").glob("*.py")), ids=lambda path: path.name)
def test_what_a_script_imports_is_there(script):
    """Those of the pictures run when a picture changes; a renamed function is noticed before."""
    import_all_of(script.read_text())


@every_page
def test_no_code_of_a_page_goes_unseen(page):
    """What is not run is read: it compiles, and what it imports is there."""
    for kind, text in BLOCK.findall(page.read_text()):
        assert kind in KINDS, kind
        if kind == "sh":
            subprocess.run(["bash", "-n"], input=text, text=True, check=True)
        if kind == "py":
            import_all_of(text)


@every_page
def test_what_a_page_points_at_exists(page):
    text = BLOCK.sub("", page.read_text())
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
    assert not [link for link in links if not (page.parent / link).exists()]
    folders = "benchmarks|docs|kernels|sampler|tests"
    paths = re.findall(rf"`((?:{folders})/[^`*{{ ]*)`", text)
    assert not [path for path in paths if not (ROOT / path).exists()]


@every_page
def test_an_excerpt_is_what_the_file_holds(page):
    for text in blocks(page, "python"):
        if path := EXCERPT.match(text):
            assert text[path.end() :].strip("\n") in (ROOT / path[1]).read_text(), path[1]


def test_what_a_page_includes_is_there():
    """`make docs` says so too; here it is said where a heading of the README is changed."""
    included = [(page, *found) for page in PAGES for found in INCLUDE.findall(page.read_text())]
    assert len(included) >= 6
    for page, source, options in included:
        lines = (page.parent / source).read_text().split("\n")
        marks = re.findall(r':(?:start-after|end-before): "(.*?)(?:\\n)?"$', options, re.MULTILINE)
        assert [lines.count(mark) for mark in marks] == [1] * len(marks), (page.name, marks)


def test_every_page_is_in_a_list():
    index = ROOT / "docs" / "index.md"
    listed = [line for text in blocks(index, "{toctree}") for line in text.split("\n")]
    pages = {page.stem for page in index.parent.glob("*.md")} - {"index"}
    assert pages == {line for line in listed if line and not line.startswith(":")}


def test_commands_are_there():
    typer = pytest.importorskip("typer")
    from fused_sampler.cli.app import app

    options = typer.main.get_command(app).commands
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    seen = set()
    for program, *words in commands():
        seen.add(program)
        if program == "make":
            assert {word for word in words if "=" not in word} <= targets
        elif program == "fused-sampler":
            name, *rest = words
            options[name].make_context(name, rest)  # raises where an option is wrong
        elif words[:1] == ["-m"] and words[1].startswith("fused_sampler"):
            assert importlib.util.find_spec(words[1]), words
    assert {"make", "fused-sampler", "python", "pip"} <= seen
