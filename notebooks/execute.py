"""Execute the notebooks on the results of ``make demo`` and store their outputs: make notebooks.

What is stored is the same whoever executes: no times, no versions, no paths of the machine.

    python -m notebooks.execute [NAME ...]
"""

import asyncio
import base64
import io
import json
import os
import re
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nbformat
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbformat import NotebookNode
from PIL import Image

FOLDER = Path(__file__).parent
PARAMETERS = "parameters"
"""Tag of the cell whose values may be changed, as papermill has it."""
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
CELL_METADATA = {"tags"}
PNG = "image/png"
MAX_PICTURE_BYTES = 100_000
SECONDS = 3600
"""Longest time of a cell."""
ENVIRONMENT = {"PYTHONWARNINGS": "ignore:IProgress not found"}
"""Bars are plain text where ipywidgets is not installed."""
MACHINE = re.compile(r"(?<![\w.~<{-])/(?:home|root|tmp|usr|opt|var|work|mnt|Users|private)/")


def notebooks() -> list[Path]:
    """The notebooks, in order."""
    return sorted(FOLDER.glob("*.ipynb"))


def read(path: Path) -> NotebookNode:
    """A notebook of the current format."""
    return nbformat.read(path, as_version=4)


def with_parameters(notebook: NotebookNode, values: Mapping[str, Any]) -> NotebookNode:
    """The notebook with a cell behind that of its parameters that sets some of them."""
    (index,) = (
        number
        for number, cell in enumerate(notebook.cells)
        if PARAMETERS in cell.metadata.get("tags", ())
    )
    source = "\n".join(f"{name} = {value!r}" for name, value in values.items())
    injected = nbformat.v4.new_code_cell(source, metadata={"tags": [f"injected-{PARAMETERS}"]})
    changed = notebook.copy()
    changed.cells = [*notebook.cells[: index + 1], injected, *notebook.cells[index + 1 :]]
    return changed


@asynccontextmanager
async def running_kernel(folder: Path) -> AsyncIterator[AsyncKernelManager]:
    """A kernel whose working directory is ``folder``, and that only this machine can talk to."""
    with TemporaryDirectory() as sockets:
        kernel = AsyncKernelManager(kernel_name="python3", transport="ipc", ip=f"{sockets}/kernel")
        await kernel.start_kernel(cwd=str(folder), env={**os.environ, **ENVIRONMENT})
        try:
            yield kernel
        finally:
            await kernel.shutdown_kernel(now=True)


async def execute(notebook: NotebookNode, kernel: AsyncKernelManager) -> NotebookNode:
    """Run every cell and keep the outputs in the notebook, which is returned.

    Raises:
        CellExecutionError: a cell has failed.
    """
    client = NotebookClient(
        notebook,
        km=kernel,
        timeout=SECONDS,
        coalesce_streams=True,
        record_timing=False,
    )
    return await client.async_execute()


def _small(picture: str) -> str:
    """A PNG in base64; one that is large is stored with 256 colours."""
    content = base64.b64decode(picture)
    if len(content) <= MAX_PICTURE_BYTES:
        return picture
    reduced = io.BytesIO()
    Image.open(io.BytesIO(content)).convert("RGB").quantize().save(reduced, "png", optimize=True)
    return base64.b64encode(reduced.getvalue()).decode()


def normalised(notebook: NotebookNode) -> NotebookNode:
    """The notebook without what depends on the machine and on the time.

    Raises:
        ValueError: an output holds a path of the machine.
    """
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in notebook.cells:
        kept = {key: value for key, value in cell.metadata.items() if key in CELL_METADATA}
        cell.metadata = nbformat.from_dict(kept)
        for output in cell.get("outputs", ()):
            output.pop("transient", None)
            if PNG in output.get("data", {}):
                output.data[PNG] = _small(output.data[PNG])
            if "metadata" in output:
                output.metadata = nbformat.from_dict({})
            text = json.dumps({key: value for key, value in output.items() if key != "data"})
            text += json.dumps(
                {
                    kind: value
                    for kind, value in output.get("data", {}).items()
                    if "image" not in kind
                }
            )
            if found := MACHINE.search(text):
                raise ValueError(f"cell {cell.id}: an output holds a path ({found[0]}...)")
    nbformat.validate(notebook)
    return notebook


async def store(path: Path) -> None:
    """Execute a notebook in a kernel of its own and store it in place."""
    async with running_kernel(FOLDER) as kernel:
        executed = await execute(read(path), kernel)
    nbformat.write(normalised(executed), path)


if __name__ == "__main__":
    for path in notebooks():
        if path.stem in (sys.argv[1:] or path.stem):
            print(path.name, flush=True)
            asyncio.run(store(path))
