"""Models of transformers, from a directory or the hub's cache; only ``fetch`` uses the network.

transformers is an extra (``pip install '.[text]'``). Its failures become one line, and weights that
it would make up for those that a file lacks are refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from torch import nn

from selftrans.runtime.errors import UserError, shortened

LOCAL: dict[str, Any] = {"local_files_only": True}
FILES = ["*.json", "*.txt", "*.model", "*.safetensors"]
"""Of settings, vocabularies and weights."""


@contextmanager
def reading(what: str, path: str) -> Iterator[Any]:
    """Give transformers, and turn what it raises into one line that names the model.

    Args:
        what: is read, for messages.
        path: directory, or name on the hub.

    Raises:
        UserError: transformers is absent, or the model cannot be read.
    """
    try:
        import transformers
    except ImportError:
        raise UserError(f"{what} {path!r}: needs transformers (pip install '.[text]')") from None
    try:
        yield transformers
    except UserError:
        raise
    except Exception as error:  # it raises many kinds
        reason = shortened(" ".join(str(error).split()) or type(error).__name__, 200)
        fetch = "" if Path(path).exists() else f" (fetch it by: hf download {path})"
        raise UserError(f"{what} {path!r}: cannot be loaded{fetch}: {reason}") from None


def fetch(what: str, path: str) -> None:
    """Download a model of the hub into its cache, without weights that would be unpickled.

    Raises:
        UserError: it cannot be had, and is not in the cache.
    """
    if not Path(path).exists():
        with reading(what, path):
            snapshot_download(path, allow_patterns=FILES)


def read_network(kind: Any, path: str) -> nn.Module:
    """A network of transformers in fp32, frozen.

    Raises:
        ValueError: a weight is not in its file.
    """
    network, found = kind.from_pretrained(
        path, use_safetensors=True, output_loading_info=True, **LOCAL
    )
    if missing := sorted(found["missing_keys"]):
        raise ValueError(f"its file has no weight {missing[0]}")
    frozen: nn.Module = network.float().requires_grad_(False).eval()
    return frozen


def check_tokenizer(tokenizer: Any) -> None:
    """Refuse the empty vocabulary that transformers makes up where its files are missing.

    Raises:
        ValueError: all words are one to it.
    """
    one, other = (tokenizer(text)["input_ids"] for text in ("a", "b"))
    if one == other:
        raise ValueError("its tokenizer knows no words: files of it are missing")
