"""Data sets, autoencoders and encoders: what their rules read, and what others read of them."""

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from selftrans.config import (
    DatasetConfig,
    PretrainedAutoencoderConfig,
    PretrainedEncoderConfig,
    TrainedAutoencoderConfig,
    TrainedEncoderConfig,
    identity,
    versioned_identity,
)
from selftrans.data.sources import may_skip
from workflow.lib import paths
from workflow.lib.paths import Wildcards, fill
from workflow.lib.study import Study


class Datasets:
    """Input and params functions of what is made of data sets, by the wildcard ``dataset``."""

    def __init__(self, study: Study) -> None:
        self.study = study

    def jobs(self) -> list[dict[str, str]]:
        """Wildcards of every data set that is trained on."""
        names = (experiment.data.name for experiment in self.study.experiments.values())
        return [{"dataset": name} for name in dict.fromkeys(names)]

    def targets(self) -> list[str]:
        """The latents of every data set."""
        return [fill(paths.LATENTS, job) for job in self.jobs()]

    def _data(self, wildcards: Wildcards) -> DatasetConfig:
        return self.study.datasets[wildcards["dataset"]]

    def definition(self, *parts: str) -> Callable[[Wildcards], dict[str, Any]]:
        """What a rule's result depends on: the images, and the named parts of the data file."""

        def of_job(wildcards: Wildcards) -> dict[str, Any]:
            data = self._data(wildcards)
            only = {"source", "image_size", *parts}
            return versioned_identity(data, data.defaults, only=only, exclude={"decoder"})

        return of_job

    def autoencoder_files(self, wildcards: Wildcards) -> list[str]:
        """The outputs of the autoencoder's rule; none for an existing autoencoder."""
        if not isinstance(self._data(wildcards).autoencoder, TrainedAutoencoderConfig):
            return []
        directory = fill(paths.AUTOENCODER, wildcards)
        return [f"{directory}/{name}" for name in paths.AUTOENCODER_FILES]

    def autoencoder_path(self, wildcards: Wildcards) -> str:
        """The directory or hub name that the autoencoder is loaded from."""
        autoencoder = self._data(wildcards).autoencoder
        if isinstance(autoencoder, TrainedAutoencoderConfig):
            return fill(paths.AUTOENCODER, wildcards)
        return autoencoder.path

    def encoder_weights(self, wildcards: Wildcards) -> str | list[str]:
        """The file of a published encoder's weights, where the data file names it."""
        encoder = self._data(wildcards).encoders[wildcards["encoder"]]
        if isinstance(encoder, PretrainedEncoderConfig) and encoder.weights:
            return encoder.weights
        return []

    def encoder_definition(self, wildcards: Wildcards) -> dict[str, Any]:
        """What an encoder depends on; the images only if it is trained on them."""
        encoder = self._data(wildcards).encoders[wildcards["encoder"]]
        trained = isinstance(encoder, TrainedEncoderConfig)
        images = self.definition()(wildcards) if trained else None
        version = self._data(wildcards).defaults
        return {"images": images, "defaults": version, "encoder": identity(encoder, version)}

    def reader_definition(self, wildcards: Wildcards) -> dict[str, Any]:
        """What a reader depends on: the world of the scenes, not which of them the data set has."""
        data = self._data(wildcards)
        of_reader = versioned_identity(data, data.defaults, only={"image_size", "reader"})
        return {**of_reader, "world": getattr(data.source, "seed", None)}

    def reference_images(self, wildcards: Wildcards) -> str:
        """What samples are measured against: what the data file names, or all its own images."""
        return self._data(wildcards).reference or self.study.data_file(wildcards)

    def reference_name(self, wildcards: Wildcards) -> str:
        """What the reference of a job's experiment is called, wherever it lies."""
        dataset = self._of_experiment(wildcards)
        reference = self._data(dataset).reference
        return Path(reference).name if reference else f"images of {dataset['dataset']}"

    def list_of_skipped(self, wildcards: Wildcards) -> str | list[str]:
        """The manifest that lists skipped images, where the others are the reference."""
        data = self._data(wildcards)
        return fill(paths.LATENTS, wildcards) if may_skip(data) and not data.reference else []

    def skipped_of_captions(self, wildcards: Wildcards) -> str | list[str]:
        """The manifest that lists skipped images, whose captions are left out."""
        return fill(paths.LATENTS, wildcards) if may_skip(self._data(wildcards)) else []

    # -- by the wildcard `experiment`

    def _of_experiment(self, wildcards: Wildcards) -> dict[str, str]:
        return {"dataset": self.study.experiment_of(wildcards).data.name}

    def path(self, template: str) -> Callable[[Wildcards], str]:
        """A path of the data set of a job's experiment."""

        def of_job(wildcards: Wildcards) -> str:
            return fill(template, wildcards, **self._of_experiment(wildcards))

        return of_job

    def latents(self, wildcards: Wildcards) -> str:
        """The latents that a job's experiment trains on."""
        return self.path(paths.LATENTS)(wildcards)

    def prompts_of_experiment(self, wildcards: Wildcards) -> list[str]:
        """The captions that samples are made of; none where the condition is a class."""
        experiment = self.study.experiment_of(wildcards)
        if experiment.condition == "class":
            return []
        return [fill(paths.CAPTIONS, {"dataset": experiment.datasets[-1].name})]

    def shown_data(self, wildcards: Wildcards) -> str:
        """The data set whose images stand beside samples."""
        experiment = self.study.experiment_of(wildcards)
        chosen = experiment.data if experiment.condition == "class" else experiment.datasets[-1]
        return self.study.data_file({"dataset": chosen.name})

    def autoencoder_of_experiment(self, wildcards: Wildcards) -> str:
        """Directory or hub name of what encodes a job's experiment's images."""
        return self.autoencoder_path(self._of_experiment(wildcards))

    def autoencoder_files_of_experiment(self, wildcards: Wildcards) -> list[str]:
        """The files of the autoencoder of a job's experiment, where a rule makes it."""
        return self.autoencoder_files(self._of_experiment(wildcards))

    def decoder_of_experiment(self, wildcards: Wildcards) -> str:
        """What makes the images of a job's experiment: its autoencoder, or another decoder."""
        return self._decoder(wildcards)[1]

    def decoder_option_of_experiment(self, wildcards: Wildcards) -> str:
        """The same as an option that says which of the two it is."""
        return shlex.join(self._decoder(wildcards))

    def _decoder(self, wildcards: Wildcards) -> tuple[str, str]:
        dataset = self._of_experiment(wildcards)
        autoencoder = self._data(dataset).autoencoder
        if isinstance(autoencoder, PretrainedAutoencoderConfig) and autoencoder.decoder:
            return "--decoder", autoencoder.decoder
        return "--autoencoder", self.autoencoder_path(dataset)

    def definition_of_experiment(self, wildcards: Wildcards) -> dict[str, Any]:
        """What the latents of a job's experiment depend on."""
        return self.definition("autoencoder", "latents")(self._of_experiment(wildcards))
