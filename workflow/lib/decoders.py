"""What decodes the samples of a checkpoint among the results."""

from pathlib import Path

from selftrans.config import TrainedAutoencoderConfig, load_experiment
from selftrans.runtime.errors import UserError
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
