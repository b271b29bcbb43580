"""The documentation's blocks of code."""

import re
import shlex
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support import REPOSITORY

DOCUMENTS = sorted(
    [*REPOSITORY.glob("docs/**/*.md"), REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md"]
)
_BLOCK = re.compile(
    r"^(?P<indent> *)```(?P<language>\S*).*?\n(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
_FUNCTION = re.compile(r"^\w+\(\) \{.*?^\}$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A block of code: where it stands, in which language, and its text."""

    place: str
    language: str
    text: str


def blocks(language: str, *names: str) -> list[Block]:
    """The blocks in a language of these documents, or of all of them."""
    chosen = [REPOSITORY / name for name in names] or DOCUMENTS
    return [block for path in chosen for block in _blocks(path) if block.language == language]


def _blocks(path: Path) -> Iterator[Block]:
    return blocks_of(path.read_text(encoding="utf-8"), str(path.relative_to(REPOSITORY)))


def blocks_of(content: str, name: str) -> Iterator[Block]:
    """The blocks of a page in Markdown."""
    for match in _BLOCK.finditer(content):
        line = content[: match.start()].count("\n") + 1
        yield Block(f"{name}:{line}", match["language"], textwrap.dedent(match["text"]))


def example_method() -> str:
    """The documentation's file of a method of one's own."""
    block, *_ = blocks("python", "docs/tutorials/add-a-method.md")
    return block.text


def commands(text: str) -> list[list[str]]:
    """The commands of a shell block, as words; also what `sbatch --wrap` runs.

    Functions, which are the user's own, are left out.
    """
    text = re.sub(r"^\w+\(\) \{.*?^\}$", "", text, flags=re.MULTILINE | re.DOTALL).replace(
        "\\\n", " "
    )
    found = []
    for line in text.splitlines():
        if words := shlex.split(line, comments=True):
            found.append(words)
            found += [inner for word in words[1:] if " " in word for inner in _wrapped(word)]
    return found


def commands_in_text() -> Iterator[tuple[str, list[str]]]:
    """Our commands between the blocks, where they stand and as words: `selftrans plan`."""
    for path in DOCUMENTS:
        name, text = str(path.relative_to(REPOSITORY)), path.read_text(encoding="utf-8")
        for match in re.finditer(r"`((?:selftrans|snakemake) [^`]+)`", _BLOCK.sub("", text)):
            yield f"{name}: {match[1]}", shlex.split(match[1])


def _wrapped(word: str) -> list[list[str]]:
    inner = word.removeprefix("exec ")
    if inner == word:
        return []
    words = shlex.split(inner)
    return [words[words.index("snakemake") :]]
