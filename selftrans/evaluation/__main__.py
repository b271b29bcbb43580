"""Evaluate any images against any reference, outside of a workflow.

``python -m selftrans.evaluation --help``
"""

import argparse
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import get_args

from selftrans.config import (
    EXTRACTORS,
    METRIC_EXTRACTORS,
    DistanceArithmetic,
    ExtractorName,
    Metric,
)
from selftrans.evaluation.compute_statistics import compute_statistics, finish
from selftrans.evaluation.extractors import Extractor, load_extractor
from selftrans.evaluation.images import open_images
from selftrans.evaluation.metrics import compute_metrics
from selftrans.evaluation.references import check_published, is_statistics
from selftrans.evaluation.statistics import ImageStatistics, features_path
from selftrans.evaluation.tables import METRIC_NAMES
from selftrans.evaluation.weights import WEIGHT_FILES, fetch_weights
from selftrans.runtime.arguments import CommandLine, at_least, check_output
from selftrans.runtime.devices import add_gpu_argument, claim_device
from selftrans.runtime.errors import UserError, run_main
from selftrans.runtime.files import write_json
from selftrans.runtime.logs import set_up_logging

EPILOG = """
SAMPLES and REFERENCE are each one of
  an .npz whose arr_0 is uint8 (N, H, W, 3); a folder of RGB images; a data file (.yaml);
  the ADM evaluator's reference batch, whose own moments are used for fid and sfid;
  statistics (.npz) of `python -m selftrans.evaluation.compute_statistics`.

  python -m selftrans.evaluation samples.npz --metrics fid,sfid,is \\
      --reference VIRTUAL_imagenet256_labeled.npz
"""


def extractors_of(
    metrics: tuple[Metric, ...], chosen: ExtractorName
) -> dict[ExtractorName, tuple[Metric, ...]]:
    """The metrics that each extractor is needed for; ``chosen`` where a metric allows it."""
    needed: dict[ExtractorName, tuple[Metric, ...]] = {}
    for metric in metrics:
        allowed = METRIC_EXTRACTORS[metric]
        name = chosen if chosen in allowed else allowed[-1]
        needed[name] = (*needed.get(name, ()), metric)
    return needed


def statistics_of(
    path: Path, extractor: Extractor, directory: Path, batch_size: int
) -> ImageStatistics:
    """Statistics of images, or as they were saved; the features of images lie in ``directory``."""
    if is_statistics(path):
        return ImageStatistics.load(path)
    output = directory / f"{path.stem}.npz"
    finish(
        compute_statistics(open_images(path), extractor, features_path(output), batch_size), path
    ).save(output)
    return ImageStatistics.load(output)


def parse_metrics(text: str) -> tuple[Metric, ...]:
    """``fid,is`` as a tuple.

    Raises:
        UserError: a name is unknown.
    """
    allowed = get_args(Metric)
    for name in (names := text.split(",")):
        if name not in allowed:
            raise UserError(f"--metrics: {name!r} is unknown (allowed: {', '.join(allowed)})")
    return tuple(name for name in allowed if name in names)


def main() -> None:
    """The command line."""
    parser = CommandLine(
        prog="python -m selftrans.evaluation",
        description="Evaluate images against a reference.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("samples", type=Path, help="what is evaluated")
    parser.add_argument("--reference", type=Path, required=True, help="what it is measured against")
    parser.add_argument(
        "--metrics", default="fid,is", help=f"of {', '.join(get_args(Metric))} (default: fid,is)"
    )
    parser.add_argument(
        "--extractor",
        choices=EXTRACTORS,
        default="inception",
        help="feature network (default: inception)",
    )
    parser.add_argument("--weights", type=Path, help="its weights (default: from the cache)")
    parser.add_argument(
        "--dinov2-weights",
        type=Path,
        help="weights for fd-dinov2 (default: from the cache)",
    )
    parser.add_argument(
        "--fetch", action="store_true", help="download missing weights into the cache"
    )
    parser.add_argument(
        "--distances",
        choices=get_args(DistanceArithmetic),
        default="fp32",
        help="arithmetic of precision and recall; adm: half precision, as in the ADM evaluator"
        " (default: fp32)",
    )
    parser.add_argument(
        "--batch-size", type=at_least(1), default=64, help="images at a time (default: 64)"
    )
    parser.add_argument(
        "--output", type=Path, help="write the metrics and what they depend on to this file (JSON)"
    )
    add_gpu_argument(parser)
    arguments = parser.parse_args()
    set_up_logging()
    if arguments.output:
        read = (arguments.samples, arguments.reference, arguments.weights, arguments.dinov2_weights)
        check_output(arguments.output, *read)
    metrics = parse_metrics(arguments.metrics)
    for path in (arguments.samples, arguments.reference):  # before the first feature is computed
        if not is_statistics(path):
            check_published(path)
            open_images(path)
    device = claim_device(min(arguments.gpus, 1))
    values: dict[Metric, float] = {}
    seen: dict[str, object] = {}
    for name, wanted in extractors_of(metrics, arguments.extractor).items():
        weights = arguments.dinov2_weights if name == "dinov2" else arguments.weights
        if arguments.fetch and weights is None and name in WEIGHT_FILES:
            weights = fetch_weights(WEIGHT_FILES[name])
        extractor = load_extractor(name, weights, device)
        with TemporaryDirectory(prefix="selftrans-") as directory:
            working_directory = Path(directory)
            for side in ("samples", "reference"):
                (working_directory / side).mkdir()
            samples, reference = (
                statistics_of(path, extractor, working_directory / side, arguments.batch_size)
                for side, path in (
                    ("samples", arguments.samples),
                    ("reference", arguments.reference),
                )
            )
            values |= compute_metrics(
                wanted, samples, reference, arguments.distances, min(arguments.gpus, 1)
            )
            seen[name] = {
                "digest": samples.digest,
                "num_samples": samples.count,
                "num_reference": reference.count,
            }
    for metric in metrics:
        print(f"{METRIC_NAMES[metric]:12} {values[metric]:.4f}")
    if arguments.output:
        result = {
            "metrics": values,
            "extractors": seen,
            "samples": str(arguments.samples),
            "reference": str(arguments.reference),
            "distances": arguments.distances,
            "versions": {
                name: version(name)
                for name in ("selftrans", "numpy", "scipy", "torch", "torchvision")
            },
        }
        write_json(arguments.output, result)


if __name__ == "__main__":
    run_main(main)
