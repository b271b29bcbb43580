"""Every message that ends a command, or warns: read from the code, with … for what differs."""

import ast
import html
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RAISED = {
    "UserError", "ConfigError", "Unavailable", "InUse", "CorruptImage", "fail", "warning",
}  # fmt: skip
"""Calls whose first argument is a message."""
TOPICS = {
    "Experiments and data files": ("selftrans/config", "selftrans/alignment"),
    "Images, latents and features": ("selftrans/data", "selftrans/extraction"),
    "Training": ("selftrans/training",),
    "Models, checkpoints and pipelines": (
        "selftrans/models", "selftrans/convert.py", "selftrans/pipeline", "selftrans/flops.py",
    ),
    "Sampling": ("selftrans/flow", "selftrans/sampling"),
    "Evaluation and figures": ("selftrans/evaluation", "selftrans/plotting"),
    "Commands": ("selftrans/cli",),
    "Python": ("selftrans/api", "selftrans/runs.py"),
    "Files, locks and devices": ("selftrans/runtime",),
    "The workflow": ("workflow",),
}  # fmt: skip
GAP = "…"


def reference() -> str:
    """The list, by topic."""
    return "\n\n".join(
        f"## {topic}\n\n" + "\n".join(f"- {_shown(text)}" for text in found)
        for topic, paths in TOPICS.items()
        if (found := messages(*paths))
    )


def messages(*paths: str) -> list[str]:
    """The messages of modules and packages, in the order of their text, each once."""
    files = (ROOT / path for path in paths)
    modules = (
        module
        for file in files
        for module in (sorted(file.rglob("*.py")) if file.is_dir() else [file])
    )
    found = {text for module in modules for text in _in_module(module)}
    return sorted(found, key=lambda text: re.sub(r"^\W+", "", text).lower())


def _in_module(path: Path) -> Iterator[str]:
    config = {"config", "alignment"} & set(path.parts)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        text = None
        match node:
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), args=[*_, last]):
                first = node.args[0]
                if name in RAISED or (config and name == "ValueError"):
                    text = first
                elif config and name == "Problem":
                    text = last
            case ast.Assign(targets=[ast.Name(id="message")], value=value):
                text = value
            case ast.Yield(value=ast.JoinedStr() as value) if path.name == "missing.py":
                text = value
        if text is not None:
            words = re.sub(r"%[-\d.,]*[sdgfr]", GAP, _template(text))
            if len(re.findall(r"[A-Za-z]", words)) > 5:  # not the text of another error
                yield words


def _template(node: ast.expr) -> str:
    """A text as it stands in the code, with a gap for what is filled in."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(map(_template, parts))
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _template(left) + _template(right)
        case ast.BoolOp(values=[*_, last]):  # `message or "a general one"`
            return _template(last)
        case _:
            return GAP


def _shown(text: str) -> str:
    return f"<code>{html.escape(' '.join(text.split()), quote=False)}</code>".replace("`", "&#96;")
