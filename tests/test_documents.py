"""The documents agree with the code, list every name once, and stay short and plain."""

import json
import posixpath
import re
from dataclasses import fields
from pathlib import Path
from typing import get_args

import pytest
from markdown_it import MarkdownIt

from components.scorer.settings import GateKey
from images.serving.process.app import create_app
from images.serving.settings import ServerSettings
from pipeline import parameters
from tests.builders import documents

ROOT, PAGES = documents.ROOT, documents.pages()
LONGEST = {"README.md": 170}
"""Most lines of a document; 200 if its name is not here."""

SENTENCE = 25
"""Most words of a sentence."""

every_page = pytest.mark.parametrize("page", PAGES)


def first_cells(head: str) -> list[str]:
    return sorted(row.cells[0] for row in documents.rows(head))


# Length and prose


@every_page
def test_a_document_is_short(page):
    assert PAGES[page].count("\n") <= LONGEST.get(page, 200)


@pytest.mark.slow
@every_page
def test_a_sentence_has_few_words(page):
    assert [sentence for sentence in sentences(PAGES[page]) if len(sentence.split()) > SENTENCE] == []


def sentences(text: str) -> list[str]:
    """Return the sentences outside of tables and boxes; a piece of code is one word."""
    prose, tables = [], 0
    for token in MarkdownIt().enable("table").parse(text):
        tables += {"table_open": 1, "table_close": -1}.get(token.type, 0)
        if token.type == "inline" and not tables:
            render = {"text": lambda child: child.content, "softbreak": lambda _: " ", "code_inline": lambda _: "code"}
            line = "".join(render.get(child.type, lambda _: "")(child) for child in token.children)
            prose += re.split(r"(?<=[.!?])\s", line)
    return prose


# Names


def test_every_parameter_is_in_one_table_with_its_default():
    rows = {row.cells[0]: row.cells[1].replace("`", "") for row in documents.rows("parameter")}
    expected = {}
    for line in parameters.table().splitlines():
        name = line.split()[0]
        required = line.split()[1] == "required"
        expected[name] = "required" if required else json.dumps(parameters.default(name))
    assert rows == expected
    assert first_cells("parameter") == sorted(expected)


def test_every_gate_is_in_one_table():
    assert first_cells("gate") == sorted(get_args(GateKey))


def test_every_option_of_the_server_is_in_one_table_with_its_default():
    spellings = {"nginx": "--no-nginx"}
    expected = {
        spellings.get(setting.name, f"--{setting.name.replace('_', '-')}"): setting.default
        for setting in fields(ServerSettings)
        if setting.name not in ("keys", "run")
    }
    defaults = {name: "" if isinstance(value, bool | tuple) else str(value) for name, value in expected.items()}
    assert {row.cells[0]: row.cells[1].strip("`") for row in documents.rows("option")} == defaults
    assert first_cells("option") == sorted(expected)


@pytest.mark.slow
def test_every_endpoint_is_in_one_table():
    paths = create_app(ServerSettings(model="any", workers=1)).openapi()["paths"]
    assert first_cells("endpoint") == sorted(f"{method.upper()} {path}" for path in paths for method in paths[path])


def test_every_kind_of_problem_is_in_one_table_with_its_status():
    numbers = {"HTTPStatus.TOO_MANY_REQUESTS": "429", "HTTPStatus.SERVICE_UNAVAILABLE": "503"}
    statuses: dict[str, set[str]] = {}
    for path in documents.tracked("images/serving/*.py"):
        text = (ROOT / path).read_text(encoding="utf-8")
        for status, kind in re.findall(r'ProblemDetails\(\s*(\d+|HTTPStatus\.\w+),\s*"([\w-]+)"', text):
            statuses.setdefault(kind, set()).add(numbers.get(status, status))
    rows = documents.rows("kind")
    assert first_cells("kind") == sorted(statuses)
    assert {row.cells[0]: {part.strip() for part in row.cells[1].split(",")} for row in rows} == statuses


def test_every_built_in_norm_is_in_one_table():
    norms = json.loads((ROOT / "components" / "scorer" / "upload_norms" / "norms.json").read_text())["norms"]
    assert first_cells("norm") == sorted(norm["key"] for norm in norms)


# Places


def test_the_readmes_tree_has_every_room():
    (tree,) = re.findall(r"^## The tree\n\n```text\n(.*?)^```$", PAGES["README.md"], re.DOTALL | re.MULTILINE)
    parts = [
        Path(path).parts for path in documents.tracked() if path.startswith(("components/", "images/", "pipeline/"))
    ]
    rooms = {f"{part[0]}/{part[1]}/" for part in parts if len(part) > 2} | {"pipeline/", "tests/", "pipeline.yaml"}
    assert sorted(line.split()[0] for line in tree.splitlines()) == sorted(rooms)


def test_the_librarys_rooms_are_in_import_order():
    rooms = [row.cells[0] for row in documents.rows("room")]
    scorer = ROOT / "components" / "scorer"
    assert sorted(rooms) == sorted({path.parent.name for path in scorer.glob("*/__init__.py")})
    for index, room in enumerate(rooms):
        text = "\n".join(path.read_text(encoding="utf-8") for path in (scorer / room).glob("*.py"))
        imported = set(re.findall(r"^from components\.scorer\.(\w+)", text, re.MULTILINE))
        assert sorted(imported & set(rooms[index + 1 :])) == [], room
    docstring = (scorer / "__init__.py").read_text(encoding="utf-8")
    positions = [docstring.index(f"``{room}``") for room in rooms]
    assert positions == sorted(positions)


@every_page
def test_links_lead_to_files_and_headings_that_are_there(page):
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", PAGES[page]):
        path = posixpath.normpath(posixpath.join(posixpath.dirname(page), target)) if target else page
        assert (ROOT / path).exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", PAGES[path], re.MULTILINE)
            assert anchor in [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]


@every_page
def test_source_files_that_a_document_names_are_there(page):
    for name in re.findall(r"`([\w./-]+\.py)`", PAGES[page]):
        assert (ROOT / name).exists() or (ROOT / page).parent.joinpath(name).exists(), name


def test_every_folder_that_a_change_may_concern_has_a_document():
    steps = {Path(path).parts[1] for path in documents.tracked("components") if path.endswith("/component.py")}
    assert [step for step in sorted(steps) if f"components/{step}/README.md" not in PAGES] == []


def test_every_measurement_is_in_the_document_on_measurements():
    text = PAGES["tests/benchmarks/README.md"]
    modules = [Path(path).stem for path in documents.tracked("tests/benchmarks/*.py") if "__init__" not in path]
    assert [name for name in modules if not re.search(rf"\b{name}\b", text)] == []
    mentioned = re.findall(r"python -m tests\.benchmarks\.(\w+)", "\n".join(PAGES.values()))
    assert sorted(set(mentioned) - set(modules)) == []


def test_documents_are_not_in_the_images():
    assert (ROOT / ".dockerignore").read_text().splitlines()[-1] == "**/*.md"
