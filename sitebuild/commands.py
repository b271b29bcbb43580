"""The reference of the command ``selftrans``: what click knows of every command."""

import html
import inspect
import re
import textwrap
from collections.abc import Iterator

import click

from selftrans.cli.table import COMMANDS, selftrans

Words = tuple[str, ...]


def reference() -> str:
    """Every command, by section of the table that ``selftrans`` prints."""
    context = click.Context(selftrans, info_name="selftrans")
    parts = []
    for section in dict.fromkeys(entry.section for entry in COMMANDS.values()):
        parts.append(f"## {section}")
        for name, entry in COMMANDS.items():
            if entry.section == section and (command := selftrans.get_command(context, name)):
                parts += (_described(*leaf) for leaf in leaves((name,), command))
    return "\n\n".join(parts)


def leaves(words: Words, command: click.Command) -> Iterator[tuple[Words, click.Command]]:
    """A command, or those of a group."""
    if isinstance(command, click.Group):
        for name, one in command.commands.items():
            yield from leaves((*words, name), one)
    else:
        yield words, command


def _described(words: Words, command: click.Command) -> str:
    name = " ".join(("selftrans", *words))
    context = click.Context(command, info_name=name)
    usage = " ".join((name, *command.collect_usage_pieces(context)))
    text = _text(inspect.cleandoc(command.help or ""))
    options = [
        f"`{record[0]}`\n:   {_option_text(record[1])}"
        for parameter in command.params
        if (record := parameter.get_help_record(context)) and record[1]
    ]
    parts = [f"### {name} {{ #{'-'.join(words)} }}", text, f"```text\n{usage}\n```", *options]
    parts += map(_paragraph, re.split(r"\n\s*\n", command.epilog or ""))
    return "\n\n".join(parts)


def _paragraph(text: str) -> str:
    """Of what follows the options: examples, a list, or a sentence."""
    lines = textwrap.dedent(text.partition("\b\n")[2]).strip()
    if lines.startswith("selftrans "):
        return f"```bash\n{lines}\n```"
    if lines:
        return "\n".join(f"- {_text(line)}" for line in lines.splitlines())
    return "" if text.strip() in ("Example:", "Examples:") else _text(text)


def _option_text(text: str) -> str:
    """An option's help as a sentence, with its default as another."""
    meaning, _, default = text.removesuffix("]").partition("  [default: ")
    meaning = meaning.removesuffix("  [required")
    required = "Required. " if text.endswith("[required]") else ""
    sentence = f"{required}{_text(meaning[:1].upper() + meaning[1:])}."
    return f"{sentence} Default: {_text(default)}." if default else sentence


def _text(text: str) -> str:
    """Plain text in Markdown; what stands in `backquotes` stays code."""
    words = re.split(r"(`[^`]+`)", " ".join(text.split()))
    return "".join(
        word if word.startswith("`") else re.sub(r"([*_\[\]|~])", r"\\\1", html.escape(word, False))
        for word in words
    )
