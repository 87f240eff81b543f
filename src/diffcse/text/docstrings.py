"""Real English that is on every machine: the documentation of the installed Python packages.

Docstrings are parsed, never run, and cut into plain sentences: `docstring_documents` makes a document of each,
`collect` sentences to train on and pairs to test with. Some packages are held out: a docstring's summary must find
the next sentence of its own description among those of all others, which asks of a sentence vector what search asks
of it, and needs no labels.
"""

from __future__ import annotations

import ast
import gc
import hashlib
import inspect
import itertools
import json
import re
import sys
import sysconfig
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from diffcse.errors import UserError
from diffcse.files import write_atomic
from diffcse.text.documents import Documents, build_documents
from diffcse.text.find_documents import RawDocument

Pair = tuple[str, str]

_VERSION = 2  # of what is cached; a new number makes old files unused
_HELD_OUT_OF_256 = 46  # packages are held out by the first byte of a hash: 18%
_SALT = 155  # of that hash; with it, our own dependencies alone give both sides a mixture of large and small packages
_MOST_PAIRS = 1000
_PAIRS_PER_PACKAGE = 150
_MOST_SOURCE = 64 * 2**20  # bytes that are parsed for training text, and as many for pairs
_LEAST_SHARE = 0.2  # of a file that is documentation; parsing the rest costs more than it brings
_TOPICS = "pydoc_data"  # one dictionary of texts, the language reference
_SKIPPED = {"__pycache__", "_vendor", "_vendored", "idle_test", "site-packages", "dist-packages", "test", "tests"}

_DOCSTRING = re.compile(rb'"""(.*?)"""', re.DOTALL)
_FENCED = re.compile(r"^ *(```|~~~).*?(^ *\1|\Z)", re.DOTALL | re.MULTILINE)
_HEADING = re.compile(r"^.*\n *([-=~*^#\"'+.])\1{2,} *$", re.MULTILINE)
_NOT_PROSE = re.compile(
    r"^(\s|>>>|[-*+#|<>=~^@:.•$%\\/\[{_&]|\d+[.)] |[a-z]\) )|[^\s.!?:;,)] {2,}\S|:\n| : |\t", re.MULTILINE
)
_MARKUP = (
    (re.compile(r":[\w:+.-]{1,30}:`[~!]?([^`<]*?)(?:\s*<[^`>]*>)?`"), r"\1"),  # :func:`~name`, :ref:`words <target>`
    (re.compile(r"`([^`<>]+?)\s*<[^`>]*>`__?"), r"\1"),  # `words <address>`_
    (re.compile(r"\[([^\][]+)\]\([^()\s]*\)"), r"\1"),  # [words](address)
    (re.compile(r"\[`{1,2}([^\][`]+)`{1,2}\]|`{1,2}([^`]+)`{1,2}_{0,2}"), r"\1\2"),
    (re.compile(r"(?<!\w)(\*{1,2})(\w[^*]*?)\1(?!\w)"), r"\2"),
)
_QUOTES = str.maketrans("\u201c\u201d\u2018\u2019", "\"\"''")
_SENTENCE_END = re.compile(r"(?<=[.!?])(?<!\be\.g\.)(?<!\bi\.e\.)(?<!\bvs\.)(?<!\bcf\.)(?<!\b[A-Z]\.)\s+(?=[A-Z\"'(])")
_WORD = re.compile(
    r"""["'(]*
    (?: (?: [A-Z][A-Za-z]*\d* | [a-z]+ )                            # a word, a name, an initialism; not codeName
        (?: ['/-] (?: [A-Z][A-Za-z]*\d* | [a-z]+ | \d+ ) )*         # don't, one-sided, and/or
      | \d+ (?: [.,-]\d+ )* (?: % | [A-Za-z]{1,2} )? | e\.g\. | i\.e\. )
    ['"),;:]* (?: \.\.\. | [.!?] )? ['")]* | --?""",
    re.VERBOSE,
)
_COMMON = frozenset(
    "a an and any are as at be been but by can do does for from has have if in into is it its may more no not of on one"
    " only or other should so than that the their then there these they this to use used was when where which while"
    " will with you your".split()
)


class _Docstring(NamedTuple):
    name: str
    """Qualified, such as `package.module.Class.method`."""
    place: str
    """Module and line, such as `package.module:12`."""
    text: str


@dataclass(frozen=True, kw_only=True)
class DocText:
    """Sentences to train on and pairs to test with, from different packages."""

    sentences: tuple[str, ...]
    """Training sentences, all different."""
    pairs: tuple[Pair, ...]
    """(summary, next sentence) of docstrings in the packages that are held out."""
    packages: int
    """Packages that the training sentences come from."""
    held_out: tuple[str, ...]
    """Packages that the pairs come from."""


def collect(*, limit: int, cache: Path | None = None, roots: Sequence[Path] | None = None) -> DocText:
    """Sentences from the documentation of the standard library and the installed packages.

    The result depends on what is installed and on nothing else: the order is fixed, and the bounds are counts of
    sentences and of source bytes, not of seconds.

    Args:
        limit: most training sentences, at least 1.
        cache: file (JSON) that keeps the result, and is used while the same packages are installed.
        roots: folders that hold packages; the standard library and site-packages unless given.

    Raises:
        UserError: where no sentence is found.
    """
    if limit < 1:
        raise UserError("limit", "at least 1", limit, "use 40000")
    roots = _installed() if roots is None else [Path(root) for root in roots]
    key = _key(limit, roots)
    if (cached := _cached(cache, key)) is not None:
        return cached
    packages = find_packages(roots)
    held_out = {name: files for name, files in packages.items() if is_held_out(name)}
    training = {name: files for name, files in packages.items() if name not in held_out}
    pairs, sources, seen = _pairs(held_out)
    sentences, used = _sentences(training, limit, seen)
    if not sentences:
        raise UserError("documentation", "found", f"none in {', '.join(map(str, roots))}", "install a package or two")
    text = DocText(sentences=sentences, pairs=pairs, packages=used, held_out=sources)
    if cache is not None:
        cache.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(cache, json.dumps({"key": key, **vars(text)}).encode())
    return text


def docstring_documents(
    *,
    limit: int = 100_000,
    cache_dir: str | Path | None = None,
    roots: Sequence[Path] | None = None,
) -> Documents:
    """Each docstring as a document: its plain sentences, the qualified name as title, the package as `group`.

    A package has many texts about the same things, so whole packages are held out of training.

    Args:
        limit: most docstrings that are read; packages take turns, so that large ones do not crowd out small ones.
        cache_dir: as in `read_documents`; used while the same packages are installed.
        roots: folders that hold packages; the standard library and site-packages unless given.

    Raises:
        UserError: `limit` is below 1, or nothing is documented.
    """
    if limit < 1:
        raise UserError("limit", "at least 1", limit, "use 100000")
    roots = _installed() if roots is None else [Path(root) for root in roots]
    documents = build_documents(
        itertools.islice(_raw_documents(find_packages(roots)), limit),
        key=["docstrings", _key(limit, roots)],
        near_duplicates=0.9,
        language="en",
        cache_dir=cache_dir,
        grouped=True,
    )
    if not len(documents.dataset):
        raise UserError("documentation", "found", f"none in {', '.join(map(str, roots))}", "install a package or two")
    return documents


def is_held_out(package: str) -> bool:
    """Whether a package is kept for evaluation; depends on its name alone.

    >>> [name for name in ("json", "networkx", "numpy", "scipy", "torch", "xml") if is_held_out(name)]
    ['networkx', 'numpy', 'xml']
    """
    return hashlib.sha256(f"{_SALT} {package}".encode()).digest()[0] < _HELD_OUT_OF_256


def find_packages(roots: Iterable[Path]) -> dict[str, list[Path]]:
    """The source files of every top-level package and module, in an order that mixes a package's parts."""
    packages: dict[str, list[Path]] = {}
    for root in roots:
        for path in sorted((path.relative_to(root) for path in root.glob("**/*.py")), key=_mixed):
            if not _SKIPPED.intersection(path.parts):
                packages.setdefault(path.parts[0].removesuffix(".py"), []).append(root / path)
    return dict(sorted(packages.items()))


def prose(docstring: str) -> list[str | None]:
    r"""The sentences of a docstring in order; None stands for a sentence or a paragraph that is not plain English.

    >>> prose("Return the mean of ``values``.\n\nArgs:\n    values: numbers.\n\nIt is 0 if there are none.")
    ['Return the mean of values.', None, 'It is 0 if there are none.']
    """
    text = _HEADING.sub("", _FENCED.sub("\n@\n", inspect.cleandoc(docstring).translate(_QUOTES)))
    results: list[str | None] = []
    for paragraph in filter(None, re.split(r"\n\s*\n", text.strip("\n"))):
        if _NOT_PROSE.search(paragraph):
            results.append(None)
            continue
        joined = " ".join(paragraph.split())
        for pattern, replacement in _MARKUP:
            joined = pattern.sub(replacement, joined)
        results += [sentence if is_plain(sentence) else None for sentence in _SENTENCE_END.split(joined)]
    return results


def is_plain(sentence: str) -> bool:
    """Whether this is a whole English sentence of 5 to 60 words, without code.

    >>> is_plain("This is the sentence that we want to keep."), is_plain("Call foo_bar(x) to get the value of it.")
    (True, False)
    """
    words = sentence.split()
    letters = sum(map(str.isalpha, sentence))
    return (
        5 <= len(words) <= 60
        and sentence[0].isupper()
        and sentence.rstrip("\"')")[-1] in ".!?"
        and all(map(_WORD.fullmatch, words))
        and sentence.count("(") == sentence.count(")")
        and letters > 0.75 * sum(map(len, words))
        and sum(map(str.isupper, sentence)) < 0.3 * letters
        and any(word.lower() in _COMMON for word in words)
    )


def _installed() -> list[Path]:
    roots = [sysconfig.get_path("stdlib"), *sys.path]
    folders = [Path(name).resolve() for name in roots if name]
    return list(dict.fromkeys(p for p in folders if p == folders[0] or p.name in ("site-packages", "dist-packages")))


def _raw_documents(packages: dict[str, list[Path]]) -> Iterator[RawDocument]:
    for package, docstring in _docstrings(packages):
        if sentences := [sentence for sentence in prose(docstring.text) if sentence]:
            # Blank lines keep the sentences apart as they are.
            yield RawDocument("\n\n".join(sentences), docstring.place, title=docstring.name, group=package)


def _sentences(packages: dict[str, list[Path]], limit: int, seen: set[str]) -> tuple[tuple[str, ...], int]:
    sentences: list[str] = []
    used: set[str] = set()
    for package, docstring in _docstrings(packages):
        for sentence in filter(None, prose(docstring.text)):
            if len(sentences) == limit:
                return tuple(sentences), len(used)
            if (letters := _letters(sentence)) not in seen:
                seen.add(letters)
                used.add(package)
                sentences.append(sentence)
    return tuple(sentences), len(used)


def _pairs(packages: dict[str, list[Path]]) -> tuple[tuple[Pair, ...], tuple[str, ...], set[str]]:
    """The pairs, the packages they come from, and the letters of every sentence on the way to them."""
    pairs: list[Pair] = []
    counts: Counter[str] = Counter()
    paired: set[str] = set()
    seen: set[str] = set()
    for package, docstring in _docstrings(packages):
        sentences = prose(docstring.text)
        seen.update(map(_letters, filter(None, sentences)))
        first, second = [*sentences, None, None][:2]
        if first is None or second is None or counts[package] == _PAIRS_PER_PACKAGE:
            continue
        both = {_letters(first), _letters(second)}
        if len(both) == 2 and not both & paired:
            paired |= both
            counts[package] += 1
            pairs.append((first, second))
        if len(pairs) == _MOST_PAIRS:
            break
    return tuple(pairs), tuple(sorted(counts)), seen


def _docstrings(packages: dict[str, list[Path]]) -> Iterator[tuple[str, _Docstring]]:
    """Docstrings with their package: one file of every package, then the second of every package, and so on."""
    rounds = itertools.zip_longest(*([(name, path) for path in files] for name, files in packages.items()))
    left = _MOST_SOURCE
    for name, path in filter(None, itertools.chain.from_iterable(rounds)):
        try:
            source = path.read_bytes()
        except OSError:
            continue
        if name != _TOPICS and sum(map(len, _DOCSTRING.findall(source))) < _LEAST_SHARE * len(source):
            continue
        left -= len(source)
        if left < 0:
            return
        tree = _parsed(source)
        if name == _TOPICS:
            yield from ((name, topic) for topic in _topics(tree))
        else:
            module = _module(path, name)
            yield from ((name, docstring) for docstring in _of_module(tree, module))


def _module(path: Path, package: str) -> str:
    """The dotted name of the module in a file of a package."""
    parts = [*path.parts[:-1], path.stem]
    start = len(parts) - 1 - parts[::-1].index(package) if package in parts else len(parts) - 1
    return ".".join(part for part in parts[start:] if part != "__init__")


def _parsed(source: bytes) -> ast.Module:
    collecting = gc.isenabled()
    gc.disable()  # a syntax tree holds no cycles, and looking for them takes longer than parsing
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of invalid escapes in other people's code
            return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return ast.Module(body=[], type_ignores=[])
    finally:
        if collecting:
            gc.enable()


def _of_module(tree: ast.Module, module: str) -> Iterator[_Docstring]:
    """The docstrings of a module and of all that is defined in it, outermost first."""
    nodes: list[tuple[ast.AST, str]] = [(tree, module)]
    for node, name in nodes:  # grows while it is read
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            name = f"{name}.{node.name}"
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if text := ast.get_docstring(node, clean=False):
                yield _Docstring(name, f"{module}:{node.body[0].lineno}", text)
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):  # hardly anything inside one is documented
            nodes += [(inner, name) for inner in (*getattr(node, "body", ()), *getattr(node, "orelse", ()))]


def _topics(tree: ast.Module) -> Iterator[_Docstring]:
    """The texts of the dictionary that is the language reference."""
    for node in ast.walk(tree):
        for key, value in zip(node.keys, node.values, strict=True) if isinstance(node, ast.Dict) else ():
            if isinstance(key, ast.Constant) and isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield _Docstring(str(key.value), f"{_TOPICS}.topics:{value.lineno}", value.value)


def _letters(sentence: str) -> str:
    return "".join(filter(str.isalpha, sentence.casefold()))


def _mixed(path: Path) -> bytes:
    return hashlib.sha256(path.as_posix().encode()).digest()


def _key(limit: int, roots: Sequence[Path]) -> str:
    # The folders' names hold the versions of what is installed.
    names = [[str(root), sorted(path.name for path in root.glob("*"))] for root in roots]
    return hashlib.sha256(json.dumps([_VERSION, limit, sys.version, names]).encode()).hexdigest()


def _cached(cache: Path | None, key: str) -> DocText | None:
    try:
        cached = json.loads(cache.read_bytes()) if cache is not None else {}
        if cached["key"] != key:
            return None
        return DocText(
            sentences=tuple(cached["sentences"]),
            pairs=tuple((first, second) for first, second in cached["pairs"]),
            packages=cached["packages"],
            held_out=tuple(cached["held_out"]),
        )
    except (OSError, ValueError, KeyError, TypeError):  # absent, or not what we wrote
        return None
