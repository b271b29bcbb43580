"""Pictures of chosen classes from a checkpoint among the results, whose autoencoder is found.

``python -m workflow.lib.sample_grid --help``
"""

from pathlib import Path

from selftrans.config import TrainedAutoencoderConfig, load_experiment
from selftrans.runtime.errors import UserError, run_main
from selftrans.sampling import sample_grid
from workflow.lib import paths


def autoencoder_of(checkpoint: Path) -> tuple[str | None, str | None]:
    """The autoencoder of the experiment whose results a checkpoint is part of, or its decoder.

    Raises:
        UserError: it is not part of any.
    """
    parts, depth = checkpoint.resolve().parts, paths.WEIGHTS.count("/")
    root, experiment = Path(*parts[: -depth - 1]), parts[-depth:][0]
    file = root / paths.fill(paths.EXPERIMENT_FILE, {"experiment": experiment})
    if not file.is_file():
        raise UserError(
            f"--autoencoder: is needed, {checkpoint} is not part of an experiment's results"
        )
    data = load_experiment(file).data
    if not isinstance(data.autoencoder, TrainedAutoencoderConfig):
        decoder = data.autoencoder.decoder
        return (None, decoder) if decoder else (data.autoencoder.path, None)
    return str(root / paths.fill(paths.AUTOENCODER, {"dataset": data.name})), None


def main() -> None:
    """The command line of ``selftrans.sampling.sample_grid``; --autoencoder may be left out."""
    sample_grid.main("workflow.lib.sample_grid", autoencoder_of)


if __name__ == "__main__":
    run_main(main)
