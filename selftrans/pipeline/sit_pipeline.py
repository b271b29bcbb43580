"""The pipeline: classes -> images, by Euler's method on the flow, guided in an interval."""

from __future__ import annotations

import os
from collections.abc import Iterable
from math import isclose
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler, ModelMixin
from diffusers.pipelines.pipeline_utils import ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor
from huggingface_hub import snapshot_download
from PIL import Image
from torch import Tensor

from selftrans.config import Uint8Conversion
from selftrans.flow.sampler import GuidedVelocity
from selftrans.flow.times import ode_times
from selftrans.models.autoencoder import decode_in_parts
from selftrans.models.metadata import LatentScaling
from selftrans.pipeline.card import Provenance, model_card
from selftrans.pipeline.index import INDEX_FILE, CallSettings, check_index
from selftrans.pipeline.transformer import SiTTransformer
from selftrans.runtime.errors import UserError
from selftrans.runtime.files import write_text
from selftrans.sampling.classes import Classes, class_numbers
from selftrans.sampling.latents import SampleNoise

EXECUTING = ("trust_remote_code", "custom_pipeline", "custom_revision")
"""Options of diffusers that execute code of a folder or of the hub."""
NO_SCALING = {"scale": 1.0, "shift": 0.0}


class SiTPipeline(DiffusionPipeline):
    """Class-conditional images from SiT.

    Args:
        transformer: the backbone.
        vae: autoencoder whose decoder makes the images.
        scheduler: of the flow's ODE.
        id2label: names of the classes by number, as diffusers' DiT has them.
        latent_scaling: scale and shift: the backbone sees (latent - shift) * scale.
        sampling: what a call does if it does not say otherwise.
        provenance: of the weights, for the model card.
    """

    model_cpu_offload_seq = "transformer->vae"

    def __init__(
        self,
        transformer: SiTTransformer,
        vae: ModelMixin,
        scheduler: FlowMatchEulerDiscreteScheduler,
        id2label: dict[str, str] | None = None,
        latent_scaling: dict[str, Any] | None = None,
        sampling: dict[str, Any] | None = None,
        provenance: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(transformer=transformer, vae=vae, scheduler=scheduler)
        self.register_to_config(
            id2label=id2label,
            latent_scaling=latent_scaling,
            sampling=sampling,
            provenance=provenance,
        )
        self._scaling = LatentScaling(digest=None, **(latent_scaling or NO_SCALING))

    # -- loading and saving

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str], **options: Any) -> SiTPipeline:
        """Load a folder, or a repository of the hub. Nothing of it is executed or unpickled.

        Args:
            folder: of ``save_pretrained``, or a name on the hub.
            options: of ``DiffusionPipeline.from_pretrained`` (``dtype``, ``token``, ...).

        Raises:
            UserError: the folder names other classes than those of such a pipeline, or an option
                would execute code or unpickle.
        """
        for option in EXECUTING:
            if options.pop(option, None):
                raise UserError(
                    f"{option}: no code of a folder is executed (allowed: leave it out)"
                )
        if options.pop("use_safetensors", None) not in (None, True):
            raise UserError("use_safetensors: weights are never unpickled (allowed: True)")
        directory = Path(folder)
        if not directory.is_dir():
            names = ("revision", "token", "cache_dir", "force_download", "local_files_only")
            hub = {name: options.pop(name) for name in names if name in options}
            patterns = ["*.json", "*.safetensors", "README.md"]
            directory = Path(snapshot_download(str(folder), allow_patterns=patterns, **hub))
        check_index(directory / INDEX_FILE)
        pipeline: SiTPipeline = super().from_pretrained(
            directory, use_safetensors=True, trust_remote_code=False, **options
        )
        return pipeline

    def save_pretrained(self, save_directory: str | os.PathLike[str], **options: Any) -> None:
        """Write a folder with its model card; see ``DiffusionPipeline.save_pretrained``.

        Raises:
            UserError: the weights would be pickled.
        """
        if not options.get("safe_serialization", True):
            raise UserError("safe_serialization: weights are never pickled (allowed: True)")
        super().save_pretrained(str(save_directory), **options)
        self._write_card(Path(save_directory))

    def _upload_folder(
        self, working_dir: str | os.PathLike[str], *more: Any, **options: Any
    ) -> Any:
        """Upload a folder with our card, where diffusers has put an empty one.

        Both ``push_to_hub`` and ``save_pretrained(push_to_hub=True)`` end here.
        """
        self._write_card(Path(working_dir))
        return super()._upload_folder(working_dir, *more, **options)

    def _write_card(self, directory: Path) -> None:
        if self.config.provenance is not None:
            provenance = Provenance.model_validate(self.config.provenance)
            names = dict(enumerate(self.class_names))
            text = model_card(provenance, self.transformer.config, names)
            write_text(directory / "README.md", text)

    # -- sampling

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes; their numbers, if they have none."""
        count, names = self.transformer.config.num_classes, self.config.id2label or {}
        return tuple(names.get(str(number), str(number)) for number in range(count))

    def initial_latents(self, seed: int, indices: Iterable[int]) -> Tensor:
        """The noise that samples ``indices`` of a seed start from, (B, C, H, W) in float64.

        What our own sampler draws: sample i is a function of (seed, i).
        """
        shape = self.transformer.shape.latent_shape
        return SampleNoise(seed, indices, shape, torch.device("cpu"))()

    @torch.no_grad()
    def __call__(
        self,
        class_labels: Classes,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_interval: tuple[float, float] | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Sample an image of each class. What is not given is as it was exported.

        Args:
            class_labels: classes, by number or name: one, a list, or a tensor.
            num_inference_steps: steps of Euler's method from noise to data.
            guidance_scale: w of v_u + w (v_c - v_u); 1 is no guidance.
            guidance_interval: first and last t in [0, 1] that are guided; 1 is noise.
            generator: of the initial noise, if ``latents`` are not given.
            latents: initial noise (B, C, H, W); see ``initial_latents``.
            output_type: ``pil``, ``np`` ((B, H, W, 3), floats in [0, 1]), or ``latent`` (unscaled).
            return_dict: whether to return an object with ``images``, or a tuple.

        Raises:
            UserError: a class is unknown, latents do not fit, or the scheduler's sampler is another
                one than Euler's on the ODE.
        """
        self._check_scheduler()
        if output_type not in ("pil", "np", "latent"):
            raise UserError(f"output_type: {output_type!r} is unknown (allowed: pil, np, latent)")
        device, shape = self._execution_device, self.transformer.shape.latent_shape
        numbers = class_numbers(class_labels, self.transformer.shape.num_classes, self.class_names)
        labels = torch.from_numpy(numbers).to(device)
        if latents is None:
            latents = randn_tensor((len(labels), *shape), generator=generator, device=device)
        elif latents.shape != (len(labels), *shape):
            found, wanted = ("x".join(map(str, s)) for s in (latents.shape, (len(labels), *shape)))
            raise UserError(f"latents: are {found}, expected {wanted}")
        settings = CallSettings.model_validate(self.config.sampling or {})
        low, high = guidance_interval or settings.guidance_interval
        field = GuidedVelocity(
            model=self.transformer,
            condition_B=labels,
            null_condition=self.transformer.null_condition(1),
            scale=settings.guidance_scale if guidance_scale is None else guidance_scale,
            low=low,
            high=high,
            channels=settings.guidance_channels,
            dtype=self.transformer.dtype,
        )
        x = latents.to(device)
        times = self._set_times(
            settings.num_inference_steps if num_inference_steps is None else num_inference_steps
        )
        for t, timestep in self.progress_bar(
            list(zip(times, self.scheduler.timesteps, strict=True))
        ):
            x = self.scheduler.step(field(x, t, field.is_guided(t)), timestep, x).prev_sample
        images = self._images(self._scaling.unscaled(x), output_type, settings.uint8)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _set_times(self, num_steps: int) -> list[float]:
        """Give the scheduler our grid, and return the times of its steps.

        It keeps float32, whose rounding must not decide whether a step is guided: where its sigmas
        are the grid's but for that, the grid's are taken. A shifted schedule has its own.
        """
        grid = ode_times(num_steps)[:-1]
        self.scheduler.set_timesteps(sigmas=grid, device=self._execution_device)
        sigmas = self.scheduler.sigmas[:-1].tolist()
        pairs = zip(grid, sigmas, strict=True)
        return [t if isclose(t, sigma, rel_tol=1e-6) else sigma for t, sigma in pairs]

    def _check_scheduler(self) -> None:
        if not isinstance(self.scheduler, FlowMatchEulerDiscreteScheduler):
            raise UserError(
                f"scheduler: {type(self.scheduler).__name__} is not of this flow"
                " (allowed: FlowMatchEulerDiscreteScheduler)"
            )
        for key, sampler in (
            ("stochastic_sampling", "an SDE"),
            ("invert_sigmas", "a flow to noise"),
        ):
            if self.scheduler.config.get(key):
                raise UserError(
                    f"scheduler: {key} is {sampler} (allowed: Euler's method on the ODE)"
                )

    def _images(self, latents: Tensor, output_type: str, conversion: Uint8Conversion) -> Any:
        if output_type == "latent":
            return latents
        images = decode_in_parts(self.vae, latents, conversion)
        if output_type == "np":
            return images.astype(np.float32) / 255
        return [Image.fromarray(image) for image in images]
