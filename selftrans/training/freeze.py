"""Freezing the teacher: embedders and blocks 1 to d of a checkpoint. ``python -m selftrans.training.freeze --help``."""

import argparse
import re
from pathlib import Path

from selftrans.runtime.errors import UserError, run_main
from selftrans.runtime.tensors import load_tensors, save_tensors

_PARTS = re.compile(r"(x_embedder|t_embedder|y_embedder|pos_embed|blocks\.(?P<block>\d+))(\.|$)")


def freeze_teacher(weights: Path, depth: int, output: Path) -> str:
    """Cut the trunk up to block ``depth`` out of a weight file and return the digest of what was written.

    Raises:
        UserError: the file is no weight file, or has fewer blocks.
    """
    tensors, metadata = load_tensors(weights, "weights")
    blocks = metadata["shape"]["depth"]
    if depth > blocks:
        raise UserError(
            f"{weights}: teacher depth {depth} is beyond its {blocks} blocks (allowed: 1 to {blocks})"
        )
    kept = {
        name: tensor
        for name, tensor in tensors.items()
        if (part := _PARTS.match(name)) and int(part["block"] or 0) < depth
    }
    source = {
        key: metadata[key] for key in ("run", "seed", "step", "weights", "digest", "fingerprint")
    }
    header = {
        "shape": {**metadata["shape"], "depth": depth},
        "source": source,
        "latents": metadata["latents"],
    }
    return save_tensors(output, kept, "teacher", header)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m selftrans.training.freeze", description="Freeze a teacher."
    )
    parser.add_argument("weights", type=Path, help="weight file of a checkpoint")
    parser.add_argument(
        "--depth", type=int, required=True, help="last block that is kept, counted from 1"
    )
    parser.add_argument("--output", type=Path, required=True, help="the frozen teacher")
    arguments = parser.parse_args()
    freeze_teacher(arguments.weights, arguments.depth, arguments.output)


if __name__ == "__main__":
    run_main(main)
