"""Rooms import only rooms to their left, and README's table names exactly the folders that are there."""

import ast
import re
from pathlib import Path

import pytest

import diffcse
from diffcse.cli import _VERBS

PACKAGE = Path(diffcse.__file__).parent
README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")

ORDER = [
    "errors",
    "settings",
    "resources",
    "config",
    "presets",
    "files",
    "progress",
    "vectors",
    "distributed",
    "connection",
    "kernels",
    "method",
    "text",
    "persistence",
    "training",
    "pretraining",
    "encoding",
    "export",
    "search",
    "encoder",
    "evaluation",
    "reports",
    "adaptation",
    "sweeps",
    "explore",
    "demo",
    "cli",
]
"""Left to right; a room or file at the root imports itself and what stands before it."""


def room(module: str) -> str:
    """`diffcse.method.views` -> `method`."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def imports(path: Path) -> set[str]:
    """Rooms that a file imports, at its top or inside a function; `if TYPE_CHECKING` counts as well."""
    results = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "diffcse":
            names = [f"diffcse.{alias.name}" for alias in node.names] if node.module == "diffcse" else [node.module]
            results |= {room(name) for name in names}
        elif isinstance(node, ast.Import):
            results |= {room(alias.name) for alias in node.names if alias.name.split(".")[0] == "diffcse"}
    return results & set(ORDER)  # names of the package itself, such as __version__, are no rooms


def test_rooms_import_only_what_stands_to_their_left():
    wrong = [
        f"{path.relative_to(PACKAGE)} imports {other}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if (home := path.relative_to(PACKAGE).parts[0].removesuffix(".py")) in ORDER
        for other in imports(path)
        if ORDER.index(other) > ORDER.index(home)
    ]
    assert not wrong, "\n".join(wrong)


def test_every_room_has_its_place_in_the_order():
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    files = {path.stem for path in PACKAGE.glob("*.py") if not path.stem.startswith("__")}
    assert rooms | files == set(ORDER)


def test_readme_names_every_room():
    table = README.partition("## What is in the box")[2]
    named = re.findall(r"^\| `(\w+)/`", table, re.MULTILINE)
    assert named == [name for name in ORDER if (PACKAGE / name).is_dir()]


@pytest.mark.parametrize("guide", sorted(PACKAGE.glob("*/__init__.py")), ids=lambda guide: guide.parent.name)
def test_a_rooms_guide_names_its_files_and_imports_nothing(guide):
    tree = ast.parse(guide.read_text(encoding="utf-8"))
    text = ast.get_docstring(tree) or ""
    verbs = guide.parent.name == "cli"  # whose files are its verbs, except for those that its guide names
    files = {path.stem for path in guide.parent.glob("*.py")} - {"__init__"} - (set(_VERBS) if verbs else set())
    assert not {name for name in files if not re.search(rf"\b{name}\b", text)}
    if guide.parent.name not in ("cli", "resources"):
        assert len(tree.body) == 1, "it holds more than its guide"
