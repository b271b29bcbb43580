"""What MkDocs calls while it builds the site (``hooks`` in mkdocs.yml).

A page says with a comment of its own line what is generated in its place, for instance
``<!-- keys -->``. Pages that stand elsewhere in the repository are taken over from there.
"""

import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # `mkdocs` does not look in the current folder

from sitebuild import commands, formulas, keys, messages, repository  # noqa: E402

GENERATED = {"commands": commands.reference, "messages": messages.reference}
CELL = re.compile(r"<td.*?</td>", re.DOTALL)
CODE = re.compile(r"(?<=<code>)[^<]+")
MARKER = re.compile(r"^<!-- (\w+) -->$", re.MULTILINE)


def on_files(files: Files, /, *, config: MkDocsConfig) -> Files:
    """Add the pages that stand elsewhere in the repository."""
    for name, source in repository.PAGES.items():
        files.append(File.generated(config, name, content=(ROOT / source).read_text("utf-8")))
    return files


def on_page_markdown(markdown: str, /, *, page: Page, config: MkDocsConfig, **_: Any) -> str:
    """Generate what the page asks for, and lead its links to the repository."""
    name = page.file.src_uri

    def generated(match: re.Match[str]) -> str:
        return keys.reference(name) if match[1] == "keys" else GENERATED[match[1]]()

    url = config.extra.get("repository")
    return MARKER.sub(generated, repository.with_links(markdown, name, ROOT, url))


def on_page_content(html: str, /, **_: Any) -> str:
    """Typeset formulas, and let names in tables break where a reader would break them."""
    return CELL.sub(lambda cell: CODE.sub(_breakable, cell[0]), formulas.typeset(html))


def _breakable(code: re.Match[str]) -> str:
    return re.sub(r"[/_]", r"\g<0><wbr>", code[0])
