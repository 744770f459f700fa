"""The shape of the house: few doors, small rooms, short files, no circles. Everything is computed from the tree and its imports."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests.architecture.imports import PACKAGES, ROOT, VENDORS, circles, files, graph, imported

MOST_ENTRIES, MOST_FILES, MOST_LINES = 13, 15, 400
UNIT = ROOT / "tests" / "unit"


def below(path: Path) -> str:
    """A file's path from its package's root."""
    return str(path.relative_to(next(folder for folder in PACKAGES.values() if path.is_relative_to(folder))))


def test_the_package_has_few_doors():
    """Modules and folders a newcomer chooses between; ``__init__.py`` with its stub and the ``py.typed`` marker are none."""
    entries = {
        path.name
        for path in PACKAGES["bcpg_cluster"].iterdir()
        if path.name not in ("__init__.py", "__init__.pyi", "__pycache__")
    }
    assert len(entries - {"py.typed"}) <= MOST_ENTRIES, sorted(entries)


@pytest.mark.parametrize("package", PACKAGES)
def test_no_room_is_crowded(package: str):
    folders = [PACKAGES[package], *(path for path in PACKAGES[package].rglob("*") if path.is_dir())]
    counts = {below(folder / "x"): sum(path.suffix == ".py" for path in folder.iterdir()) for folder in folders}
    assert {folder: count for folder, count in counts.items() if count > MOST_FILES} == {}


def test_no_file_is_long():
    lengths = {below(path): len(path.read_text().splitlines()) for path in files().values()}
    assert {path: length for path, length in lengths.items() if length > MOST_LINES} == {}


def test_no_files_import_each_other_in_a_circle():
    assert circles(graph()) == []


def test_a_circle_would_be_found():
    edges = {"a": frozenset({"b"}), "b": frozenset({"c"}), "c": frozenset({"a"}), "d": frozenset({"a"})}
    assert circles(edges) == [["a", "b", "c"]]


def test_vendors_are_imported_where_they_belong():
    wrong = []
    for path in files().values():
        place = below(path)
        vendors = {name.partition(".")[0] for name in imported(path)} & set(VENDORS)
        wrong += [
            f"{place} imports {vendor}"
            for vendor in vendors
            if not any(fnmatch(place, pattern) for pattern in VENDORS[vendor])
        ]
    assert wrong == []


def test_patterns_for_vendors_name_files_that_exist():
    """A pattern without a file is left over from a move."""
    places = [below(path) for path in files().values()]
    patterns = {pattern for of_vendor in VENDORS.values() for pattern in of_vendor}
    assert {pattern for pattern in patterns if not any(fnmatch(place, pattern) for place in places)} == set()


def test_unit_tests_mirror_the_package():
    """A folder of unit tests has the name of a room: the package's, the command line's, or the repository's."""
    roots = [PACKAGES["bcpg_cluster"], ROOT]
    folders = [path.relative_to(UNIT) for path in UNIT.rglob("*") if path.is_dir() and path.name != "__pycache__"]
    stray = [
        str(folder)
        for folder in folders
        if not any((root / folder).is_dir() for root in roots)
        and not (folder.parts[0] == "cli" and (PACKAGES["bcpg_cluster_cli"] / Path(*folder.parts[1:])).is_dir())
    ]
    assert stray == []
