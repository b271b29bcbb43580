"""``selftrans evaluate``, ``statistics``, ``features`` and ``weights``."""

import sys
from pathlib import Path
from typing import Any, get_args

import click

from selftrans.cli.options import (
    FILE,
    OneOf,
    WholeNumber,
    batch_size_option,
    check_output,
    device_option,
    input_options,
    output_option,
    process_options,
    workers_of,
)
from selftrans.config import (
    EXTRACTORS,
    METRIC_EXTRACTORS,
    SCORERS,
    DistanceArithmetic,
    ExtractorName,
    ScorerName,
)
from selftrans.evaluation.weights import WEIGHT_FILES, fetch_weights, find_weights
from selftrans.runtime.devices import DeviceName, claim_device, granted_gpus
from selftrans.runtime.errors import UserError
from selftrans.runtime.files import write_json
from selftrans.runtime.workers import Shard
from selftrans.training.input_paths import InputPaths

weights_option = click.option("--weights", type=FILE, help="its weights  [default: in the cache]")


@click.command(
    epilog="""SAMPLES and REFERENCE are each one of

    \b
      an .npz whose arr_0 is uint8 (N, H, W, 3)
      a folder of RGB images
      a data file (.yaml)
      the ADM evaluator's reference batch, whose own moments are used for fid and sfid
      statistics (.npz) of `selftrans statistics`

    Example:

    \b
      selftrans evaluate samples.npz --metrics fid,sfid,is \\
          --reference VIRTUAL_imagenet256_labeled.npz"""
)
@click.argument("samples", type=FILE)
@click.option("--reference", type=FILE, required=True, help="what they are measured against")
@click.option(
    "--metrics", default="fid,is", show_default=True, help=f"of {', '.join(METRIC_EXTRACTORS)}"
)
@click.option(
    "--extractor",
    type=OneOf(EXTRACTORS),
    default="inception",
    show_default=True,
    help="feature network",
)
@weights_option
@click.option("--dinov2-weights", type=FILE, help="weights for fd-dinov2  [default: in the cache]")
@click.option("--fetch", is_flag=True, help="download missing weights into the cache")
@click.option(
    "--distances",
    type=OneOf(get_args(DistanceArithmetic)),
    default="fp32",
    show_default=True,
    help="arithmetic of precision and recall; adm: half precision, as in the ADM evaluator",
)
@batch_size_option(64)
@click.option(
    "--output", "-o", type=FILE, help="file for the metrics and what they depend on (JSON)"
)
@device_option
def evaluate(
    samples: Path,
    reference: Path,
    metrics: str,
    extractor: ExtractorName,
    weights: Path | None,
    dinov2_weights: Path | None,
    fetch: bool,
    distances: DistanceArithmetic,
    batch_size: int,
    output: Path | None,
    device: DeviceName,
) -> None:
    """Measure SAMPLES against a reference."""
    if output:
        check_output(output, samples, reference, weights, dinov2_weights)

    from selftrans.evaluation import evaluate as evaluation
    from selftrans.evaluation.tables import METRIC_NAMES

    result = evaluation.evaluate(
        samples,
        reference,
        metrics=evaluation.parse_metrics(metrics),
        extractor=extractor,
        weights=weights,
        dinov2_weights=dinov2_weights,
        fetch=fetch,
        distances=distances,
        batch_size=batch_size,
        gpus=granted_gpus(device),
    )
    for metric, value in result["metrics"].items():
        spread = f" ± {result['spreads'][metric]:.4f}" if metric in result["spreads"] else ""
        print(f"{METRIC_NAMES[metric]:12} {value:.4f}{spread}")
    for text in result["cautions"]:
        print(f"not to be trusted: {text}", file=sys.stderr)
    if output:
        write_json(output, result)


@click.command(
    epilog="""Examples:

    \b
      selftrans statistics samples.npz --extractor inception --output inception.npz
      selftrans statistics experiments/data/digits.yaml --extractor classifier \\
          --weights results/data/digits/extractors/classifier.safetensors --output reference.npz"""
)
@click.argument("images", type=FILE)
@click.option("--extractor", type=OneOf(EXTRACTORS), required=True, help="feature network")
@weights_option
@output_option("the statistics (.npz); features go beside it")
@batch_size_option(64)
@process_options
def statistics(
    images: Path,
    extractor: ExtractorName,
    weights: Path | None,
    output: Path,
    batch_size: int,
    device: DeviceName,
    processes: int,
    worker: Shard | None,
) -> None:
    """Compute the feature statistics of IMAGES: an .npz, a folder or a data file."""
    from selftrans.evaluation.compute_statistics import write_statistics
    from selftrans.evaluation.statistics import features_path

    for file in (output, features_path(output)):
        check_output(file, images, weights, suffix=file.suffix)
    check_output(output, suffix=".npz")
    write_statistics(
        images, extractor, weights, output, batch_size, workers_of(device, processes, worker)
    )


@click.command(
    epilog="""Example:

    \b
      selftrans score results/scenes-text/runs/mmdit/seed0/samples/4800/ode-cfg-n1000/samples.npz \\
          --prompts results/data/scenes-validation/captions/manifest.json \\
          --scorer reader --weights results/data/scenes/reader.safetensors"""
)
@click.argument("samples", type=FILE)
@click.option("--prompts", type=FILE, required=True, help="manifest of their captions")
@click.option("--scorer", type=OneOf(SCORERS), required=True, help="what compares them")
@click.option("--weights", required=True, help="the reader's file, or CLIP's directory or name")
@click.option("--metrics", help="comma-separated  [default: all of the scorer's]")
@click.option("--output", "-o", type=FILE, help="write the metrics file here (JSON)")
@batch_size_option(64)
@device_option
def score(
    samples: Path,
    prompts: Path,
    scorer: ScorerName,
    weights: str,
    metrics: str | None,
    output: Path | None,
    batch_size: int,
    device: DeviceName,
) -> None:
    """Compare each picture of SAMPLES with the caption that it was made of."""
    if output:
        check_output(output, samples, prompts, suffix=".json")

    from selftrans.evaluation import scores
    from selftrans.evaluation.tables import METRIC_NAMES

    computed = scores.all_metrics_of(scorer)
    chosen: Any = metrics.split(",") if metrics else computed
    if unknown := [metric for metric in chosen if metric not in computed]:
        allowed = ", ".join(computed)
        raise UserError(f"--metrics: {unknown[0]!r} is none of {scorer}'s (allowed: {allowed})")
    claimed = claim_device(granted_gpus(device))
    captioned = scores.CaptionedImages(samples, prompts)
    if scorer == "clip":
        scored = scores.scored_by_clip(captioned, weights, batch_size, claimed)
    else:
        scored = scores.scored_by_reader(captioned, Path(weights), batch_size, claimed)
    if not metrics:
        chosen = [metric for metric in chosen if metric in scored["metrics"]]
    result = scores.metrics_file(captioned, scored, chosen)
    for metric, value in result["metrics"].items():
        print(f"{METRIC_NAMES[metric]:24} {value:.4f}")
    if output:
        write_json(output, result)


@click.command(
    epilog="""Example:

    \b
      selftrans features digits --run sit --seed 0 \\
          results/digits/runs/sit/seed0/checkpoints/{1200,3000}/ema.safetensors \\
          --latents results/data/digits/latents/manifest.json --output features.npz"""
)
@click.argument("experiment")
@click.argument("checkpoints", type=FILE, nargs=-1, required=True)
@click.option("--run", required=True, help="name of the run")
@click.option("--seed", type=WholeNumber(0), required=True, help="seed of the run")
@click.option("--latents", type=FILE, required=True, help="manifest of the latent store")
@input_options
@output_option("the features (.npz)")
@batch_size_option(256)
@device_option
def features(
    experiment: str,
    checkpoints: tuple[Path, ...],
    run: str,
    seed: int,
    latents: Path,
    inputs: InputPaths,
    output: Path,
    batch_size: int,
    device: DeviceName,
) -> None:
    """Compute features of a run's blocks, and of what its loss follows.

    CHECKPOINTS are the run's weight files, by ascending step.
    """
    check_output(output, *checkpoints, suffix=".npz")

    from selftrans.config import load_experiment
    from selftrans.evaluation.features import write_features

    write_features(
        load_experiment(experiment),
        run,
        seed,
        list(checkpoints),
        latents,
        inputs,
        output,
        batch_size,
        claim_device(granted_gpus(device)),
    )


@click.command(
    epilog="""Examples:

    \b
      selftrans weights inception --fetch
      selftrans weights dinov2 --path dinov2_vitl14_pretrain.pth"""
)
@click.argument("extractor", type=OneOf(tuple(WEIGHT_FILES)))
@click.option("--path", type=FILE, help="where the file lies  [default: in the cache]")
@click.option("--fetch", is_flag=True, help="download it into the cache, if it is missing")
@click.option("--record", type=FILE, help="write the checked file's name and digest here (JSON)")
def weights(extractor: str, path: Path | None, fetch: bool, record: Path | None) -> None:
    """Find, check or fetch the published weights of EXTRACTOR."""
    file = WEIGHT_FILES[extractor]
    if fetch and path is None:
        fetch_weights(file)
    found = find_weights(file, path)
    if record:
        write_json(record, {"extractor": extractor, "file": file.name, "sha256": file.sha256})
    print(f"{found}: {file.name}, digest as published")


COMMANDS = {
    "score": score,
    "evaluate": evaluate,
    "statistics": statistics,
    "features": features,
    "weights": weights,
}
