"""Classes of the user's own, by name: ``FILE.py:CLASS`` or ``MODULE:CLASS``.

A file is found beside the experiment file that names it, a module on Python's path. What protects
a run is a digest of the tokens of that source and of the local modules that it imports, without
comments and layout: a reformatted file is the same method, a changed formula is another one.
"""

import ast
import hashlib
import importlib
import importlib.util
import io
import sys
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

HERE = Path()
"""The project's folder, where nobody says otherwise: the working directory."""
_LAYOUT = (tokenize.COMMENT, tokenize.NL, tokenize.ENCODING, tokenize.ENDMARKER)
_STRUCTURE = (tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
# From Python 3.12 on, an f-string is many tokens; as text it is the same in every version.
_FSTRING = {getattr(tokenize, name, None) for name in ("FSTRING_START", "FSTRING_END")} - {None}


def is_reference(name: object) -> bool:
    """Whether a name means a class of the user's own."""
    return isinstance(name, str) and ":" in name


def is_own_class(settings: object) -> bool:
    """Whether settings are of a class of the user's own: a method, or a kind of backbone."""
    return any(is_reference(getattr(settings, key, None)) for key in ("method", "kind"))


def relative_to(directory: Path, reference: str, project: Path = HERE) -> str:
    """A reference to a file in ``directory``, as it is found from the working directory.

    One that a resolved experiment holds is found from the project's folder.
    """
    file, _, name = reference.rpartition(":")
    path = (directory / file).resolve()
    if not file.endswith(".py"):
        return reference
    if not path.is_file() and (project / file).is_file():
        return f"{project / file}:{name}"
    here = Path.cwd()
    return f"{path.relative_to(here) if path.is_relative_to(here) else path}:{name}"


def load_class(reference: str, base: type) -> Any:
    """The class that a reference names.

    Raises:
        ValueError: in one line, why it cannot be used.
    """
    source, _, name = reference.rpartition(":")
    try:
        module = _load_file(Path(source).resolve()) if source.endswith(".py") else _import(source)
        loaded = getattr(module, name)
    except Exception as error:  # the user's code may raise anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"{reference!r} cannot be loaded ({reason})") from None
    if not (isinstance(loaded, type) and issubclass(loaded, base)):
        raise ValueError(f"{reference!r} is not a subclass of {base.__module__}.{base.__name__}")
    return loaded


def _import(name: str) -> Any:
    if (here := str(Path.cwd())) not in sys.path:  # as for `python -m`, whoever reads the file
        sys.path.append(here)
    return importlib.import_module(name)


@cache
def _load_file(path: Path) -> Any:
    name = f"selftrans_user_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    module = importlib.util.module_from_spec(spec)
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    for local, file in _local_imports(path, path.parent):
        taken = getattr(sys.modules.get(local), "__file__", None)
        if taken is not None and Path(taken).resolve() != file:
            raise ImportError(f"module {local!r} is {taken}, {path.name} means {file}")
    return module


def source_files(loaded: type) -> dict[str, Path]:
    """The files that a class of the user's own is made of, by their paths below its folder."""
    module = sys.modules[loaded.__module__]
    path = Path(str(module.__file__)).resolve()
    is_file = module.__name__.startswith("selftrans_user_")
    root = path.parents[0 if is_file else module.__name__.count(".")]
    files, pending = {}, [path]
    while pending:
        file = pending.pop()
        if (key := file.relative_to(root).as_posix()) not in files:
            files[key] = file
            pending += [imported for _, imported in _local_imports(file, root)]
    return dict(sorted(files.items()))


def source_digest(loaded: type) -> str:
    """SHA-256 of the tokens of those files."""
    digest = hashlib.sha256()
    for name, path in source_files(loaded).items():
        digest.update(f"{name}\n".encode())
        for word in _words(path.read_text(encoding="utf-8")):
            digest.update(f"{word}\0".encode())
    return digest.hexdigest()


def _local_imports(path: Path, root: Path) -> Iterator[tuple[str, Path]]:
    """Modules below ``root`` that a file imports, at its top or within a function."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names, base = [alias.name for alias in node.names], root
        elif isinstance(node, ast.ImportFrom):
            base = path.parents[node.level - 1] if node.level else root
            module = node.module or ""
            names = [module, *(f"{module}.{alias.name}".strip(".") for alias in node.names)]
        else:
            continue
        for name in filter(None, names):
            stem = base.joinpath(*name.split("."))
            for file in (stem.with_suffix(".py"), stem / "__init__.py"):
                if file.is_file() and file.resolve() != path:
                    yield name, file.resolve()


def _words(text: str) -> Iterator[str]:
    """Tokens of a source without comments and layout; blocks keep where they begin and end."""
    lines = text.splitlines(keepends=True)
    depth, start = 0, (0, 0)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in _FSTRING:
            opens = tokenize.tok_name[token.type] == "FSTRING_START"
            start = token.start if opens and depth == 0 else start
            depth += 1 if opens else -1
            if depth == 0:
                yield _between(lines, start, token.end)
        elif depth or token.type in _LAYOUT:
            continue
        else:
            yield tokenize.tok_name[token.type] if token.type in _STRUCTURE else token.string


def _between(lines: list[str], start: tuple[int, int], end: tuple[int, int]) -> str:
    (first, left), (last, right) = start, end
    if first == last:
        return lines[first - 1][left:right]
    middle = lines[first : last - 1]
    return "".join([lines[first - 1][left:], *middle, lines[last - 1][:right]])
