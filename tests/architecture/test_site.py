"""The documentation site: built without a warning, with links that lead somewhere, from its own files alone, and searchable."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.browser import PROGRAM, look_at

ROOT = Path(__file__).parents[2]
SOURCES = ("*.md", "*.yml", "*.yaml", "LICENSE", "CITATION.cff", "docs", "configs", "clusters", "scripts", "benchmarks")
LOADS = {"src", "srcset", "poster", "data"}  # attributes whose address a browser fetches without being asked


def build(root: Path, out: Path) -> subprocess.CompletedProcess[str]:
    """`make site`, into another folder."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=300)


@dataclass
class Seen(HTMLParser):
    """What a page refers to and can be referred to by."""

    links: list[str] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)
    anchors: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if value is None:
                continue
            if name in ("id", "name") and tag != "meta":
                self.anchors.add(value)
            elif name in LOADS or (name == "href" and tag in ("link", "image", "use")):
                self.loads.append(value)
            elif name == "href":
                self.links.append(value)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    done = build(ROOT, out)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return out


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Seen]:
    seen: dict[Path, Seen] = defaultdict(Seen)
    for page in site.rglob("*.html"):
        seen[page].feed(page.read_text())
    return dict(seen)


def test_every_page_is_there(site: Path) -> None:
    written = {f"{page.stem}.html" for page in (ROOT / "docs").glob("*.md")}
    assert written | {"index.html", "CHANGELOG.html", "CONTRIBUTING.html"} <= {
        page.name for page in site.glob("*.html")
    }
    assert "min_verified_share" in (site / "config.html").read_text()
    assert "sampler_logprobs" in (site / "records.html").read_text()


def internal(pages: dict[Path, Seen]) -> Iterator[tuple[Path, str, Path, str]]:
    """Page, address as written, file it names, fragment; addresses on other hosts left out."""
    for page, seen in pages.items():
        if page.name == "404.html":  # shown at any address, so its own are absolute
            continue
        for address in (*seen.links, *seen.loads):
            parts = urlsplit(address)
            if not parts.scheme and not parts.netloc:
                target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
                yield page, address, target, unquote(parts.fragment)


def test_every_link_and_anchor_leads_somewhere(site: Path, pages: dict[Path, Seen]) -> None:
    found = list(internal(pages))
    assert len(found) > 1000
    for page, address, target, fragment in found:
        assert not address.startswith("/"), f"{page.name} links to {address}, which fails from disk"
        file = target / "index.html" if target.is_dir() else target
        assert file.is_file() and file.is_relative_to(site), f"{page.name} links to {address}"
        if fragment and file.suffix == ".html":
            assert fragment in pages[file].anchors, f"{page.name} links to {address}"


def test_nothing_is_loaded_from_elsewhere(site: Path, pages: dict[Path, Seen]) -> None:
    addresses = [(page.name, address) for page, seen in pages.items() for address in seen.loads]
    for sheet in site.rglob("*.css"):
        text = re.sub(r"/\*.*?\*/", "", sheet.read_text(), flags=re.DOTALL)
        addresses += [(sheet.name, address) for address in re.findall(r"(?:url\(|@import)\s*[\"']?([^\"')]+)", text)]
    elsewhere = [(name, address) for name, address in addresses if re.match(r"(?!data:)[a-z]+:|//", address)]
    assert len(addresses) > 100 and not elsewhere


def copy_of_sources(folder: Path) -> Path:
    folder.mkdir()
    for source in (path for pattern in SOURCES for path in ROOT.glob(pattern)):
        if source.is_dir():
            shutil.copytree(source, folder / source.name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / source.name)
    return folder


@pytest.mark.parametrize(
    "link", ["[x](nowhere.md)", "[x](operate.md#nowhere)", "[x](../configs/nowhere.yaml)", "[x](/data.md)"]
)
def test_a_broken_link_fails_the_build(tmp_path: Path, link: str) -> None:
    root = copy_of_sources(tmp_path / "copy")
    with (root / "docs" / "overview.md").open("a") as page:
        page.write(f"\n{link}\n")
    done = build(root, tmp_path / "out")
    assert done.returncode != 0 and "overview.md" in done.stderr, done.stderr


def test_a_page_without_a_place_in_the_navigation_fails_the_build(tmp_path: Path) -> None:
    root = copy_of_sources(tmp_path / "copy")
    (root / "docs" / "lost.md").write_text("# Lost\n")
    done = build(root, tmp_path / "out")
    assert done.returncode != 0 and "lost.md" in done.stderr, done.stderr


def test_search_finds_from_disk_in_a_browser(site: Path, tmp_path: Path) -> None:
    """The picture is kept where BCPG_SCREENSHOTS says."""
    if PROGRAM is None:
        pytest.skip("no browser is installed (Debian: chromium)")
    url = f"{(site / 'index.html').as_uri()}?q=gradient%20mass"
    page = look_at(url, ["matching documents", "Gradient mass"], cookies={}, deadline_s=60.0)
    folder = Path(os.environ.get("BCPG_SCREENSHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "site-search.png").write_bytes(page.png)
    assert re.search(r"\d+ matching documents", page.text)
    assert "The method, as implemented" in page.text
