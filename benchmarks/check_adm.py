"""Recompute the published row of ADM-G+U on ImageNet 256 with the real weights.

Run it by ``make check-adm WEIGHTS=... SAMPLES=...``.

Not part of the tests: it needs the ported Inception weights, the evaluator's reference batch
and its 50,000 sample images (``admnet_guided_upsampled_imagenet256.npz``), 12 GB in all.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from selftrans.cli.options import FILE, device_option
from selftrans.cli.table import run_command
from selftrans.config import Metric
from selftrans.evaluation.evaluate import statistics_of
from selftrans.evaluation.inception import load_inception
from selftrans.evaluation.metrics import compute_metrics
from selftrans.evaluation.tables import METRIC_NAMES
from selftrans.evaluation.weights import cache_directory
from selftrans.runtime.devices import DeviceName, claim_device, granted_gpus
from selftrans.runtime.logs import set_up_logging

PUBLISHED: dict[Metric, tuple[float, float]] = {  # value and what a port may differ by
    "fid": (3.9426, 0.005),
    "sfid": (6.1404, 0.005),
    "is": (215.84, 0.3),
    "precision": (0.8265, 0.003),
    "recall": (0.5309, 0.003),
}


@click.command()
@click.argument("samples", type=FILE)
@click.option("--weights", type=FILE, help="ported Inception weights  [default: in the cache]")
@click.option("--reference", type=FILE, help="the reference batch  [default: in the cache]")
@device_option
def check(samples: Path, weights: Path | None, reference: Path | None, device: DeviceName) -> None:
    """Compare the metrics of SAMPLES, admnet_guided_upsampled_imagenet256.npz, with the paper's."""
    set_up_logging()
    gpus = granted_gpus(device)
    extractor = load_inception(weights, claim_device(gpus))
    reference = reference or cache_directory() / "VIRTUAL_imagenet256_labeled.npz"
    with TemporaryDirectory(prefix="selftrans-") as name:
        ours = statistics_of(samples, extractor, Path(name) / "samples", 64)
        against = statistics_of(reference, extractor, Path(name) / "reference", 64)
        found = compute_metrics(tuple(PUBLISHED), ours, against, "adm", gpus)
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


def main() -> None:
    """The entry point."""
    run_command(check, "python -m benchmarks.check_adm")


if __name__ == "__main__":
    main()
