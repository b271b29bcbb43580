"""Pages that stand elsewhere in the repository, and links to files of it."""

import logging
import re
from pathlib import Path
from posixpath import dirname, join, normpath, relpath

LOG = logging.getLogger("mkdocs.hooks.repository")
DOCS = "docs"
PAGES = {
    "benchmarks.md": "benchmarks/README.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
}
"""Pages of the site, by where they stand in the repository."""
_PAGE_OF = {source: page for page, source in PAGES.items()} | {"README.md": "index.md"}
_LINK = re.compile(
    r"(?<!!)\[(?P<text>(?:[^\[\]]|\[[^\]]*\])*)\]"
    r"\((?P<target>[^)\s#:]+)(?P<anchor>#[^)\s]*)?\)"
)
_CODE = re.compile(r"^(```.*?^```|~~~.*?^~~~)", re.DOTALL | re.MULTILINE)


def with_links(markdown: str, page: str, root: Path, url: str | None) -> str:
    """The page with links to pages of the site as such, and to other files of the repository.

    Without the repository's ``url`` a link to another file is its text. A link to what is not
    there is a warning, which ends a strict build.
    """
    folder = dirname(PAGES.get(page, f"{DOCS}/{page}"))

    def lead(match: re.Match[str]) -> str:
        target = normpath(join(folder, match["target"]))
        anchor = match["anchor"] or ""
        if inside := _page(target):
            return f"[{match['text']}]({relative(inside, page)}{anchor})"
        if not (root / target).exists():
            LOG.warning("%s: links to %s, which is not there", page, target)
        if url:
            return f"[{match['text']}]({url.rstrip('/')}/blob/main/{target}{anchor})"
        return match["text"]

    parts = _CODE.split(markdown)  # every other one is code
    return "".join(part if i % 2 else _LINK.sub(lead, part) for i, part in enumerate(parts))


def relative(target: str, page: str) -> str:
    """A page's path as a link on another page."""
    return relpath(target, dirname(page) or ".")


def _page(target: str) -> str | None:
    """The file of the site that a file of the repository is."""
    if target in _PAGE_OF:
        return _PAGE_OF[target]
    return target.removeprefix(f"{DOCS}/") if target.startswith(f"{DOCS}/") else None
