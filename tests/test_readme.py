"""The README keeps its promises: its Python runs, links lead somewhere, and models/ holds what the card says."""

from __future__ import annotations

import hashlib
import re
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from test_versions import floors

from dcgan_export.card import FRONT_MATTER, front_matter, read_front_matter

CARDS = sorted((ROOT / "models").rglob("*.md"))
PAGES = [
    ROOT / "README.md",
    ROOT / "README.zh-CN.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *CARDS,
    *sorted((ROOT / "examples").glob("*/README.md")),
]
SNIPPETS = [
    snippet
    for page in (ROOT / "README.md", ROOT / "docs" / "inference.md")
    for snippet in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
]


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_python_of_the_readme_runs(snippet: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    names: dict[str, Any] = {}
    exec(snippet, names)
    digits = names["digits"] if "digits" in names else names["pixels"]
    assert digits.dtype == np.uint8
    assert digits.size == 16 * 28 * 28
    assert digits.min() == 0
    assert digits.max() == 255


def commands(page: Path) -> tuple[list[str], list[str]]:
    """What a page tells its readers to type: blocks of code without their comments, and code within lines."""
    text = page.read_text()
    blocks = re.findall(r"```.*?```", text, re.DOTALL)
    code = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    return [re.sub(r" +# .*", "", block) for block in blocks], code


@pytest.mark.parametrize(("page", "other"), [("README.md", "README.zh-CN.md")])
def test_both_languages_have_the_same_commands_and_links(page: str, other: str) -> None:
    assert commands(ROOT / page) == commands(ROOT / other)
    pages = {"README.md", "README.zh-CN.md", "docs/understand.md", "docs/understand.zh-CN.md"}  # each has its own
    links = [re.findall(r"\]\(([^)\s]+)\)", (ROOT / name).read_text()) for name in (page, other)]
    assert [link for link in links[0] if link not in pages] == [link for link in links[1] if link not in pages]


def test_both_languages_have_the_same_figures() -> None:
    """Of the table that tests tutorials: its distances, in the order of its rows."""
    tables = [
        re.findall(r"^\|[^|]*\|[^|]*\| ([\d, ]*) \|$", (ROOT / "docs" / name).read_text(), re.MULTILINE)
        for name in ("understand.md", "understand.zh-CN.md")
    ]
    assert tables[0] == tables[1]
    assert len(tables[0]) > 5


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    plain = (re.sub(r"\[([^]]*)\]\([^)]*\)|`", r"\1", heading) for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        other = page.parent / name if name else page
        assert other.exists(), target
        assert not anchor or anchor in anchors(other), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_page_has_a_gap_to_be_filled(page: Path) -> None:
    assert "@@" not in page.read_text()
    assert not re.search(r"^(TABLE|TODO|TBD)$", page.read_text(), re.MULTILINE)


def test_shipped_files_have_their_digests_and_size() -> None:
    lines = (ROOT / "models" / "SHA256SUMS").read_text().splitlines()
    listed = {name: digest for digest, name in map(str.split, lines)}
    shipped = {
        path.name for path in (ROOT / "models").iterdir() if path.suffix in (".onnx", ".pt", ".safetensors", ".golden")
    }
    assert listed.keys() == shipped
    for name, digest in listed.items():
        assert hashlib.sha256((ROOT / "models" / name).read_bytes()).hexdigest() == digest
        assert digest in (ROOT / "models" / f"{Path(name).stem}.md").read_text()
    assert sum(path.stat().st_size for path in (ROOT / "models").iterdir()) < 55e6


@pytest.mark.parametrize("name", [path.stem for path in CARDS if path.name != "README.md"])
def test_the_page_on_quality_has_the_figures_of_the_card(name: str) -> None:
    """Rounded as the page shows them, in the order of its columns."""
    head, *rows = re.findall(r"^\|.*$", (ROOT / "docs" / "quality.md").read_text(), re.MULTILINE)
    (row,) = (row for row in rows if f"`{name}`" in row)
    card = (ROOT / "models" / f"{name}.md").read_text()
    told = {
        key.replace("one digit", "one class"): (value, spread)
        for key, value, spread in re.findall(r"^\| (.+?)(?:, .*?)? \| (.*?) \|(.*)", card, re.MULTILINE)
    }
    for column, shown in zip(head.split("|")[2:-1], row.split("|")[2:-1], strict=True):
        found = re.match(r" ([\d.]+)", shown)
        if found:
            value, spread = told[column.strip()]
            decimals = len(found[1].partition(".")[2])
            assert found[1] == f"{float(value.split()[0]):.{decimals}f}", column
            if "(" in shown:
                assert f" {shown.partition('(')[2].partition(')')[0]} |" in spread, column


@pytest.mark.parametrize("path", CARDS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_card_tells_the_hub_what_it_tells_people(path: Path) -> None:
    text = path.read_text()
    blocks = read_front_matter(path)
    assert text.startswith(front_matter(blocks) + "\n# ")
    front = pytest.importorskip("yaml").safe_load("".join(blocks.values()))
    assert tuple(front) == FRONT_MATTER
    licence = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["license"].split()[0]
    assert front["license"] == licence.lower()
    assert f"| Licence | {licence} |" in text
    assert front["library_name"] == "dcgan-toolkit"
    (entry,) = front["model-index"]
    (result,) = entry["results"]
    assert f"card: {entry['name']}\n" in text
    assert result["task"] == {"type": front["pipeline_tag"]}
    assert result["dataset"]["type"] in front["datasets"]
    assert (f" {result['dataset']['name']} " in text, result["dataset"]["split"]) == (True, "test")
    assert [figure["type"] for figure in result["metrics"]] == front["metrics"]
    figures = [(figure["name"], figure["value"]) for figure in result["metrics"]]
    if path.name == "README.md":  # of the evaluator
        ((name, accuracy),) = figures
        assert (name, f" {accuracy} % on the test images" in text) == ("accuracy, in %", True)
        return
    table = text.partition("## How good it is")[2]
    _, *rows = re.findall(r"^\| (.+?) \| (.*?) \| .* \|$", table, re.MULTILINE)  # below its head
    told = [
        (name.partition(",")[0] + ", in %" * value.endswith(" %"), value.removesuffix(" %")) for name, value in rows
    ]
    assert figures == [(name, float(value)) for name, value in told]


@pytest.mark.parametrize("path", CARDS, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_hubs_own_library_finds_the_figures_of_a_card(path: Path) -> None:
    data = pytest.importorskip("huggingface_hub").ModelCard(path.read_text()).data
    assert [figure.metric_type for figure in data.eval_results] == data.metrics
    assert {(figure.dataset_split, figure.task_type) for figure in data.eval_results} == {("test", data.pipeline_tag)}


@pytest.mark.parametrize("path", CARDS, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_lines_of_a_card_fit(path: Path) -> None:
    assert [line for line in path.read_text().splitlines() if len(line) > 100 and not line.startswith("|")] == []


def test_the_evaluator_has_its_digest() -> None:
    folder = ROOT / "models" / "evaluator"
    digest = hashlib.sha256((folder / "mnist-evaluator.onnx").read_bytes()).hexdigest()
    assert digest in (folder / "README.md").read_text()


def test_security_names_tests_that_are_there_and_the_bounds_of_pyproject() -> None:
    page = (ROOT / "SECURITY.md").read_text()
    promises, bounds = page.split("| promise | test |")[1].split("| package | bound | what it excludes |")
    named = re.findall(r"`(tests/\w+\.py)`", promises)
    assert len(set(named)) > 10
    assert [path for path in named if not (ROOT / path).exists()] == []
    rows = dict(re.findall(r"^\| ([\w-]+) \| ([\d.]+) \|", bounds, re.MULTILINE))
    assert len(rows) == 15
    declared = floors(tomllib.loads((ROOT / "pyproject.toml").read_text()))
    assert {name: declared[name] for name in rows} == rows
    assert declared["onnxruntime-gpu"] == declared["onnxruntime"]
