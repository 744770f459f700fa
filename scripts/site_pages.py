"""A hook of mkdocs.yml: pages of the site that are files of the repository outside of ``docs/``.

The home page is README.md, and CONTRIBUTING.md, CHANGELOG.md and LICENSE-ASSETS.md are pages under their own names. Any other file
that a page links to (a config, a cluster file) becomes a page that shows it, so a link that works in a checkout works in the site
too. A link to a folder becomes plain text.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "CHANGELOG.md": "CHANGELOG.md",
    "LICENSE-ASSETS.md": "LICENSE-ASSETS.md",
}
LINK = re.compile(r"\[([^\]\n]*(?:\n[^\]\n]*)?)\]\(((?!https?:|mailto:|#)[^)\s#]+)(#[^)\s]*)?\)")
LANGUAGES = {
    ".yaml": "yaml",
    ".yml": "yaml",
    ".py": "python",
    ".toml": "toml",
    ".sh": "bash",
    ".sbatch": "bash",
    ".json": "json",
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the repository's pages and the files they and ``docs/`` link to."""
    for name, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / name).read_text(encoding="utf-8")))
    sources = [ROOT / name for name in PAGES] + [ROOT / "docs" / file.src_uri for file in files.documentation_pages()]
    for name in sorted({name for source in sources if source.is_file() for name in shown_files(source)}):
        files.append(File.generated(config, page_of(name), content=shown(name)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links lead to pages of the site."""
    uri = page.file.src_uri
    if uri.startswith("files/"):
        return markdown
    source = next((name for name, target in PAGES.items() if target == uri), f"docs/{uri}")

    def link(match: re.Match[str]) -> str:
        text, path, fragment = match.group(1), match.group(2), match.group(3) or ""
        name = in_repository(source, path)
        if (ROOT / name).is_dir():
            return text
        target = page_of(name)
        return f"[{text}]({posixpath.relpath(target, posixpath.dirname(uri) or '.')}{fragment})"

    return LINK.sub(link, markdown)


def in_repository(source: str, path: str) -> str:
    """A link's target, named from the repository's root."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), path))


def page_of(name: str) -> str:
    """The site's page for a file of the repository."""
    if name in PAGES:
        return PAGES[name]
    return name.removeprefix("docs/") if name.startswith("docs/") else f"files/{name}.md"


def shown_files(source: Path) -> Iterator[str]:
    """The files outside of ``docs/`` that a page links to."""
    for match in LINK.finditer(source.read_text(encoding="utf-8")):
        name = in_repository(source.relative_to(ROOT).as_posix(), match.group(2))
        if (ROOT / name).is_file() and page_of(name).startswith("files/"):
            yield name


def shown(name: str) -> str:
    """A page with a file in it, as it is."""
    text = (ROOT / name).read_text(encoding="utf-8")
    if "````" in text:
        raise PluginError(f"{name} has a fence of four backticks, which the page that shows it needs for itself")
    language = LANGUAGES.get(Path(name).suffix, "text")
    return f"---\ntitle: {name}\nsearch:\n  exclude: true\n---\n\n# {name}\n\n````{language}\n{text}````\n"
