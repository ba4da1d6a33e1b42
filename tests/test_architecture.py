"""Rooms: which rooms each may import, and which third parties each may load when it is imported."""

import ast
import importlib.util
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.builders.product import FILES, MODULES, PACKAGES, ROOT

MOST = 9  # modules of a folder, beside its __init__

ROOMS = {
    # room: (rooms of ours that it may import, what of third parties it may import at the top of a module)
    "scorer": ("", "numpy ai_edge_litert"),  # its modules without a room, each of which may import the others
    "scorer.metrics": ("scorer", "numpy scipy"),
    "scorer.imaging": ("scorer", "numpy PIL pillow_heif imagehash cykooz_resizer tensorflow"),
    "scorer.registry": ("scorer", "requests"),
    "scorer.run": ("scorer scorer.registry", ""),
    "scorer.faces": ("scorer scorer.registry", "numpy PIL cv2"),
    "scorer.upload_norms": ("scorer scorer.faces", "numpy PIL cv2"),
    "scorer.data": ("scorer scorer.imaging scorer.faces", "numpy pandas tensorflow tensorflow_datasets"),
    "scorer.model": ("scorer scorer.faces", "numpy pandas keras"),
    "scorer.fit": ("scorer scorer.data scorer.model", "keras tensorflow"),
    "scorer.artifacts": (
        "scorer scorer.imaging scorer.registry scorer.faces scorer.upload_norms scorer.model",
        "numpy PIL keras tensorflow google",
    ),
    "scorer.report": ("scorer", "PIL jinja2 markupsafe matplotlib"),
    "scorer.explain": (
        "scorer scorer.metrics scorer.imaging scorer.registry scorer.model scorer.artifacts scorer.report",
        "numpy PIL cv2 keras tensorflow matplotlib",
    ),
    "scorer.advice": ("scorer scorer.imaging scorer.faces", "numpy PIL cv2"),
    "scorer.batch": (
        "scorer scorer.imaging scorer.registry scorer.run scorer.faces scorer.artifacts", "apache_beam",
    ),
    "ingestion": (
        "images scorer scorer.metrics scorer.imaging scorer.run scorer.faces scorer.data scorer.report",
        "numpy pandas scipy PIL matplotlib tensorflow tensorflow_datasets kfp",
    ),
    "validation": (
        "images scorer scorer.metrics scorer.imaging scorer.registry scorer.run scorer.data scorer.report",
        "numpy pandas scipy PIL matplotlib markupsafe kfp",
    ),
    "pretraining": (
        "images scorer scorer.imaging scorer.registry scorer.run scorer.data scorer.model scorer.fit scorer.artifacts"
        " scorer.report",
        "numpy PIL keras tensorflow kfp",
    ),
    "training": (
        "images scorer scorer.metrics scorer.imaging scorer.run scorer.faces scorer.upload_norms scorer.data"
        " scorer.model scorer.fit scorer.artifacts scorer.report",
        "numpy scipy keras tensorflow kfp",
    ),
    "evaluation": (
        "images scorer scorer.metrics scorer.imaging scorer.registry scorer.run scorer.faces scorer.upload_norms"
        " scorer.data scorer.model scorer.fit scorer.artifacts scorer.explain scorer.report",
        "numpy pandas scipy PIL matplotlib markupsafe tensorflow kfp",
    ),
    "push": (
        "images scorer scorer.metrics scorer.registry scorer.run scorer.faces scorer.data scorer.artifacts"
        " scorer.report",
        "numpy markupsafe kfp",
    ),
    "notification": ("images scorer scorer.run", "requests kfp"),
    "images": ("", ""),
    "images.steps": ("", ""),
    "images.serving": ("scorer scorer.imaging scorer.run", "fastapi prometheus_client"),
    "images.serving.inference": (
        "images.serving scorer scorer.imaging scorer.registry scorer.faces scorer.artifacts scorer.advice", "numpy PIL",
    ),
    "images.serving.http": (
        "images.serving images.serving.inference scorer scorer.faces scorer.advice",
        "fastapi pydantic pydantic_core python_multipart starlette typing_extensions",
    ),
    "images.serving.protocols": (
        "images.serving images.serving.inference images.serving.http scorer scorer.faces scorer.upload_norms"
        " scorer.explain scorer.batch",
        "numpy fastapi",
    ),
    "images.serving.process": (
        "images.serving images.serving.inference images.serving.http images.serving.protocols scorer scorer.imaging",
        "fastapi starlette uvicorn uvicorn_worker uvloop prometheus_client",
    ),
    "pipeline": ("images scorer scorer.registry scorer.run scorer.artifacts", "kfp yaml google"),
    "pipeline.kubeflow": ("pipeline scorer scorer.registry scorer.run", "kfp kfp_server_api urllib3 yaml"),
    "pipeline.cli": (
        "pipeline pipeline.kubeflow scorer scorer.registry scorer.run scorer.artifacts scorer.explain scorer.batch", "",
    ),
}  # fmt: skip

EXCEPTIONS = {
    # What a run needs is checked before it begins, also in rooms above; they are imported when they are needed.
    ("components.scorer.run.preflight", "scorer.faces"),
    ("components.scorer.run.preflight", "scorer.upload_norms"),
    # They start the server and the command line.
    ("pipeline.__main__", "pipeline.cli"),
    ("images.serving.__main__", "images.serving.process"),
}


def imports(path: Path, lazy: bool = True) -> set[str]:
    """Return the modules that a file imports, with ``from a import b`` as ``a.b``.

    Args:
        path: The file.
        lazy: Whether imports within functions and for types alone count as well.
    """
    names, queue = set(), [ast.parse(path.read_text(encoding="utf-8"))]
    while queue:
        node = queue.pop()
        if not lazy and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if not lazy and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        queue += ast.iter_child_nodes(node)
    return names


def module(name: str) -> str:
    """Return the module of ours that an imported name is or belongs to."""
    return name if name in MODULES else name.rpartition(".")[0]


def room(name: str) -> str:
    """Return the room of a module of ours: the longest entry of `ROOMS` that its name begins with."""
    dotted = re.sub(r"^components\.", "", name) + "."
    return max((room_name for room_name in ROOMS if dotted.startswith(room_name + ".")), key=len, default="")


def own(path: Path, lazy: bool = True) -> set[str]:
    return {module(name) for name in imports(path, lazy) if name.split(".")[0] in PACKAGES}


every_module = pytest.mark.parametrize("name", sorted(MODULES))


@pytest.mark.slow
@every_module
def test_a_module_imports_rooms_that_the_table_names(name):
    importer_room = room(name)
    for imported in own(MODULES[name]):
        imported_room = room(imported)
        is_contract = importer_room.startswith("pipeline") and re.fullmatch(r"components\.\w+\.component", imported)
        is_job = name == "pipeline.sagemaker_job" and imported_room in ("ingestion", "pretraining", "training")
        is_allowed = imported_room in (importer_room, *ROOMS[importer_room][0].split()) if importer_room else True
        assert is_allowed or is_contract or is_job or (name, imported_room) in EXCEPTIONS, f"{name} imports {imported}"


@pytest.mark.slow
@every_module
def test_a_module_loads_third_parties_that_the_table_names(name):
    own_room = room(name)
    external = {module_name.split(".")[0] for module_name in imports(MODULES[name], lazy=False)} - {
        *sys.stdlib_module_names,
        *PACKAGES,
    }
    assert not external - {*(ROOMS[own_room][1].split() if own_room else ())}


def test_the_rooms_import_each_other_one_way():
    graph = {importer: {*imported.split()} for importer, (imported, _) in ROOMS.items()}
    assert [*TopologicalSorter(graph).static_order()]


@pytest.mark.slow
def test_no_module_imports_itself_by_way_of_others():
    graph = {name: own(path, lazy=False) - {name} for name, path in MODULES.items() if path.name != "__init__.py"}
    assert [*TopologicalSorter(graph).static_order()]


def test_a_folder_holds_few_modules():
    folders = {path.parent for path in FILES}
    sizes = {
        str(folder.relative_to(ROOT)): len([*folder.glob("*.py")]) - (folder / "__init__.py").exists()
        for folder in folders
    }
    assert not {folder: size for folder, size in sizes.items() if size > MOST}


def test_the_init_of_a_room_holds_a_docstring_alone():
    for path in FILES:
        if path.name == "__init__.py" and path.parent.name != "sample":  # the package sample is used as one module
            body = ast.parse(path.read_text(encoding="utf-8")).body
            assert all(isinstance(node, ast.Expr) for node in body), path


def test_no_test_imports_a_test():
    """Scripts in strings of a test count as code, and import builders and fakes as well."""
    pattern = re.compile(r"^\s*(from|import) tests\.([\w.]+\.)?test_", re.MULTILINE)
    assert not [path for path in (ROOT / "tests").rglob("*.py") if pattern.search(path.read_text(encoding="utf-8"))]


def test_scripts_in_strings_import_modules_that_exist():
    pattern = re.compile(r"^\s*from ((?:components|images|pipeline)[\w.]*) import (\w+)", re.MULTILINE)
    for path in (ROOT / "tests").rglob("*.py"):
        for module, name in pattern.findall(path.read_text(encoding="utf-8")):
            assert importlib.util.find_spec(module), path
            folder = ROOT.joinpath(*module.split("."))
            if folder.is_dir():
                known = {entry.stem for entry in folder.iterdir()}
                assert name in known or name in (folder / "__init__.py").read_text(encoding="utf-8"), (path, name)


@pytest.mark.slow
@every_module
def test_only_the_pipeline_and_the_contracts_know_kfp(name):
    if not name.startswith("pipeline") and not name.endswith(".component"):
        assert not [imported for imported in imports(MODULES[name]) if imported.split(".")[0].startswith("kfp")]


def test_no_module_or_folder_is_named_for_being_a_heap():
    heaps = {"utils", "util", "common", "helpers", "helper", "core", "misc"}
    assert not [name for name in MODULES if heaps & {*name.split(".")}]


@pytest.mark.slow
def test_compiling_the_pipeline_loads_no_tensorflow():
    code = "import sys; import pipeline.cli.main; print([m for m in sys.modules if m in ('tensorflow', 'keras')])"
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "[]"
