"""Pictures of chosen classes from a checkpoint among the results, whose autoencoder is found.

``python -m workflow.lib.sample_grid --help``
"""

from pathlib import Path

from selftrans.config import DatasetConfig, TrainedAutoencoderConfig, load_experiment
from selftrans.data.class_names import readable_names
from selftrans.data.manifests import Manifest, read_manifest
from selftrans.runtime.errors import UserError, run_main
from selftrans.sampling import sample_grid
from workflow.lib import paths


def dataset_of(checkpoint: Path) -> tuple[Path, DatasetConfig] | None:
    """The root of the results that a checkpoint is part of, and its data set; else None."""
    parts, depth = checkpoint.resolve().parts, paths.WEIGHTS.count("/")
    root, experiment = Path(*parts[: -depth - 1]), parts[-depth:][0]
    file = root / paths.fill(paths.EXPERIMENT_FILE, {"experiment": experiment})
    return (root, load_experiment(file).data) if file.is_file() else None


def autoencoder_of(checkpoint: Path) -> tuple[str | None, str | None]:
    """The autoencoder of the experiment whose results a checkpoint is part of, or its decoder.

    Raises:
        UserError: it is not part of any.
    """
    if (found := dataset_of(checkpoint)) is None:
        raise UserError(
            f"--autoencoder: is needed, {checkpoint} is not part of an experiment's results"
        )
    root, data = found
    if not isinstance(data.autoencoder, TrainedAutoencoderConfig):
        decoder = data.autoencoder.decoder
        return (None, decoder) if decoder else (data.autoencoder.path, None)
    return str(root / paths.fill(paths.AUTOENCODER, {"dataset": data.name})), None


def class_names_of(checkpoint: Path) -> tuple[str, ...] | None:
    """The names of its experiment's classes: the data file's, else its latents'.

    None, where neither is there.
    """
    if (found := dataset_of(checkpoint)) is None:
        return None
    root, data = found
    if data.class_names is not None:
        return data.class_names
    manifest = root / paths.fill(paths.LATENTS, {"dataset": data.name})
    return (
        readable_names(read_manifest(manifest, Manifest).class_names)
        if manifest.is_file()
        else None
    )


def main() -> None:
    """The command line of ``selftrans.sampling.sample_grid``; --autoencoder may be left out."""
    sample_grid.main("workflow.lib.sample_grid", autoencoder_of, class_names_of)


if __name__ == "__main__":
    run_main(main)
