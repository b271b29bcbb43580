"""Recompute the published row of ADM-G+U on ImageNet 256 with the real weights.

Run it by ``make check-adm WEIGHTS=... SAMPLES=...``.

Not part of the tests: it needs the ported Inception weights, the evaluator's reference batch
and its 50,000 sample images (``admnet_guided_upsampled_imagenet256.npz``), 12 GB in all.
"""

import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from selftrans.config import Metric
from selftrans.evaluation.__main__ import statistics_of
from selftrans.evaluation.inception import load_inception
from selftrans.evaluation.metrics import compute_metrics
from selftrans.evaluation.tables import METRIC_NAMES
from selftrans.evaluation.weights import cache_directory
from selftrans.runtime.devices import add_gpu_argument, claim_device
from selftrans.runtime.errors import run_main
from selftrans.runtime.logs import set_up_logging

PUBLISHED: dict[Metric, tuple[float, float]] = {  # value and what a port may differ by
    "fid": (3.9426, 0.005),
    "sfid": (6.1404, 0.005),
    "is": (215.84, 0.3),
    "precision": (0.8265, 0.003),
    "recall": (0.5309, 0.003),
}


def main() -> None:
    """Recompute, print both, and end with an error where they differ."""
    reference = cache_directory() / "VIRTUAL_imagenet256_labeled.npz"
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.check_adm", description="Check against published numbers."
    )
    parser.add_argument("samples", type=Path, help="admnet_guided_upsampled_imagenet256.npz")
    parser.add_argument(
        "--weights", type=Path, help="ported Inception weights (default: where they are fetched to)"
    )
    parser.add_argument(
        "--reference",
        type=Path,
        default=reference,
        help=f"the reference batch (default: {reference})",
    )
    add_gpu_argument(parser)
    arguments = parser.parse_args()
    set_up_logging()
    extractor = load_inception(arguments.weights, claim_device(arguments.gpus))
    with TemporaryDirectory(prefix="selftrans-") as name:
        samples = statistics_of(arguments.samples, extractor, Path(name) / "samples", 64)
        against = statistics_of(arguments.reference, extractor, Path(name) / "reference", 64)
        found = compute_metrics(tuple(PUBLISHED), samples, against, "adm", arguments.gpus)
    print(f"{'':10} {'published':>10} {'here':>10} {'difference':>11}  allowed")
    off = []
    for metric, (expected, tolerance) in PUBLISHED.items():
        difference = found[metric] - expected
        off += [metric] if abs(difference) > tolerance else []
        print(
            f"{METRIC_NAMES[metric]:10} {expected:10.4f} {found[metric]:10.4f} "
            f"{difference:+11.4f}  {tolerance}"
        )
    if off:
        sys.exit(f"error: {', '.join(off)} differ from the published row")


if __name__ == "__main__":
    run_main(main)
