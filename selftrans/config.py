"""The typed experiment: every name, default, bound and error text, once.

An experiment file (``experiments/NAME.yaml``) says what is compared: data, backbone, runs, evaluation, figures. A data
file (``experiments/data/NAME.yaml``) says what is learnt from: images, crop, autoencoder. Both are read here, checked
here, and nowhere else; the JSON schema for editors is generated from these models.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self, TypeVar, get_args

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    model_validator,
)

from selftrans.grids import expand_grids
from selftrans.runtime.errors import ConfigError

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=80)]
PositiveInt = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
UnitFloat = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Weights = Literal["ema", "raw"]
InterpolantName = Literal["linear", "cosine"]
Precision = Literal["fp32", "bf16", "fp16"]
Convention = Literal["noise-at-1", "data-at-1"]
"""Which end of time is which; the velocity is always dx/dt. ``noise-at-1``: ours, REPA's, SRA's. ``data-at-1``: SiT's."""
ExtractorName = Literal["classifier", "inception", "dinov2"]
EXTRACTORS: tuple[ExtractorName, ...] = ("classifier", "inception", "dinov2")
DistanceArithmetic = Literal["fp32", "adm"]
Metric = Literal["fid", "sfid", "is", "precision", "recall", "kid", "fd-dinov2"]
# Which networks a metric is defined for; an FID of the classifier never compares with one of Inception.
METRIC_EXTRACTORS: dict[Metric, tuple[ExtractorName, ...]] = {
    "fid": ("classifier", "inception"),
    "sfid": ("inception",),
    "is": ("classifier", "inception"),
    "precision": ("classifier", "inception"),
    "recall": ("classifier", "inception"),
    "kid": ("classifier", "inception"),
    "fd-dinov2": ("dinov2",),
}


class ConfigModel(BaseModel):
    """Base of every part of a file: unknown keys are refused, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


S = TypeVar("S", bound=ConfigModel)
EXPERIMENTS = Path("experiments")
DATA_FILES = EXPERIMENTS / "data"

# --------------------------------------------------------------------------------------------------------------- data


class DigitsSource(ConfigModel):
    """The 1,797 handwritten digits that come with scikit-learn (8x8 scans of 10 classes, UCI optdigits)."""

    kind: Literal["digits"]


class FileSource(ConfigModel):
    """What sources of image files have in common. Images get the ADM crop: box halving, bicubic resize, centre crop."""

    path: str
    """Where they lie."""
    on_error: Literal["stop", "skip"] = "stop"
    """An image that cannot be decoded ends the job with its name, or is left out and listed in the latents' manifest."""
    exif_rotation: bool = False
    """Turn images as their EXIF data say; ADM's preparation, whose statistics the field compares with, does not."""


class FolderSource(FileSource):
    """A folder with a folder of images for each class, as ImageNet's `train/`; or labels in its `dataset.json`, as EDM's."""

    kind: Literal["folder"]


class ZipSource(FileSource):
    """A zip of such a folder, read without unpacking."""

    kind: Literal["zip"]


class HuggingFaceSource(FileSource):
    """A directory that `save_to_disk` of Hugging Face's `datasets` wrote."""

    kind: Literal["huggingface"]
    split: str | None = None
    """Which split, where the directory holds several."""
    image_column: str = "image"
    """Name of the column of images."""
    label_column: str = "label"
    """Name of the column of classes."""


class RepaSource(FileSource):
    """What REPA's preparation makes: `images/` and, in `vae-sd/`, their moments, which are taken over without encoding."""

    kind: Literal["repa"]


AnySource = Annotated[
    DigitsSource | FolderSource | ZipSource | HuggingFaceSource | RepaSource,
    Field(discriminator="kind"),
]


class TrainedAutoencoderConfig(ConfigModel):
    """A small `AutoencoderKL`, trained on the data itself by a rule of its own."""

    kind: Literal["trained"]
    block_channels: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (16, 32, 32)
    """Channels per resolution; each further entry halves the resolution."""
    latent_channels: PositiveInt = 4
    """Channels C of the latent."""
    norm_groups: PositiveInt = 8
    """Groups of the group normalisation; divides every entry of `block_channels`."""
    steps: PositiveInt = 400
    """Optimizer steps."""
    batch_size: PositiveInt = 64
    """Images per step."""
    learning_rate: PositiveFloat = 2e-3
    """Peak learning rate of AdamW; it falls to zero along half a cosine."""
    kl_weight: Annotated[float, Field(ge=0)] = 1e-4
    """Weight of the KL divergence per latent number against the squared error per pixel."""
    seed: Seed = 0
    """Seed of weights, order and posterior noise."""

    @model_validator(mode="after")
    def _groups_divide_channels(self) -> Self:
        if wrong := [channels for channels in self.block_channels if channels % self.norm_groups]:
            raise ValueError(
                f"norm_groups: {self.norm_groups} does not divide block_channels {wrong[0]}"
            )
        return self

    @property
    def downsampling(self) -> int:
        """Pixels per latent, along a side."""
        return 2 ** (len(self.block_channels) - 1)


class PretrainedAutoencoderConfig(ConfigModel):
    """An autoencoder of diffusers that exists: a directory written by `save_pretrained`, or a name on the Hugging Face hub."""

    kind: Literal["pretrained"]
    path: str
    """Directory or hub name, for instance `stabilityai/sd-vae-ft-mse`."""
    latent_channels: PositiveInt = 4
    """Channels C of its latents."""
    downsampling: PositiveInt = 8
    """Pixels per latent, along a side."""


class LatentsConfig(ConfigModel):
    """How the posterior's moments are stored."""

    dtype: Literal["float16", "float32"] = "float16"
    """Precision of the stored means and standard deviations."""
    shard_size: PositiveInt = 16384
    """Images per shard; a shard is the unit of work and of resuming."""
    flip: bool = False
    """Store the mirrored image's moments as well; training draws one of the two at every visit."""
    precision: Precision = "fp32"
    """Arithmetic of the encoder."""


class ClassifierConfig(ConfigModel):
    """A small convolutional classifier trained on the data: the feature extractor where no Inception can be had."""

    width: PositiveInt = 32
    """Channels of the first convolution."""
    features: PositiveInt = 64
    """Length of the feature vector in front of the logits."""
    steps: PositiveInt = 300
    """Optimizer steps."""
    batch_size: PositiveInt = 128
    """Images per step."""
    learning_rate: PositiveFloat = 2e-3
    """Peak learning rate of AdamW; it falls to zero along half a cosine."""
    seed: Seed = 0
    """Seed of weights, order and augmentation."""


class TrainedEncoderConfig(ConfigModel):
    """A small timm vision transformer, trained to classify the data by a rule of its own.

    It stands in for DINOv2 where no weights can be had, and is called a stand-in wherever it is shown: unlike DINOv2 it has
    seen the labels.
    """

    kind: Literal["trained"]
    patch_size: PositiveInt = 8
    """Side of a patch in pixels."""
    depth: PositiveInt = 4
    """Transformer blocks."""
    hidden_size: PositiveInt = 96
    """Length of a token."""
    num_heads: PositiveInt = 4
    """Attention heads; divides `hidden_size`."""
    steps: PositiveInt = 600
    """Optimizer steps."""
    batch_size: PositiveInt = 64
    """Images per step."""
    learning_rate: PositiveFloat = 1e-3
    """Peak learning rate of AdamW; it falls to zero along half a cosine."""
    seed: Seed = 0
    """Seed of weights, order and augmentation."""

    @model_validator(mode="after")
    def _heads_divide_hidden_size(self) -> Self:
        if self.hidden_size % self.num_heads:
            raise ValueError(
                f"num_heads: {self.num_heads} does not divide hidden_size {self.hidden_size}"
            )
        return self


class PretrainedEncoderConfig(ConfigModel):
    """A vision transformer that exists: any of timm's by name, with its published weights or a file of them."""

    kind: Literal["pretrained"]
    model: str
    """Name in timm, for instance `vit_base_patch14_dinov2` (REPA's DINOv2 ViT-B)."""
    input_size: PositiveInt = 224
    """Side in pixels that images are resized to: 224 gives 16x16 patches of 14, the grid of SiT with patch 2 at 256 pixels."""
    weights: str | None = None
    """File of weights (`.safetensors`, `.pth`); timm's own from the Hugging Face hub, if it is not given."""


Encoder = Annotated[TrainedEncoderConfig | PretrainedEncoderConfig, Field(discriminator="kind")]


class DatasetConfig(ConfigModel):
    """A data set as it is learnt from: images, size, autoencoder. Experiments that name it share its latents."""

    name: Name
    """Name under which the results lie; the file's name if it is not given."""
    source: AnySource
    """Where the images come from."""
    images: PositiveInt | None = None
    """How many images the source has: another number is refused, and a plan can be made before the data are there."""
    image_size: PositiveInt
    """Height and width of the square images, in pixels."""
    autoencoder: Annotated[
        TrainedAutoencoderConfig | PretrainedAutoencoderConfig, Field(discriminator="kind")
    ]
    """The map between images and latents."""
    latents: LatentsConfig = LatentsConfig()
    """Storage of the latents."""
    classifier: ClassifierConfig = ClassifierConfig()
    """The embedded feature extractor."""
    encoders: dict[Name, Encoder] = {}
    """Vision transformers whose patch tokens REPA follows and the analysis compares with, by name."""
    reference: str | None = None
    """What samples are measured against: an ADM reference batch (`.npz`), a folder of images, a data file, or statistics
    of ours; all images of this data set, if it is not given."""

    @model_validator(mode="after")
    def _latents_are_whole(self) -> Self:
        if self.image_size % self.autoencoder.downsampling:
            raise ValueError(
                f"image_size: {self.image_size} is not a multiple of the autoencoder's {self.autoencoder.downsampling}"
            )
        return self

    @model_validator(mode="after")
    def _prepared_moments_are_as_they_are(self) -> Self:
        if isinstance(self.source, RepaSource):
            if self.latents.flip:
                raise ValueError(
                    "latents.flip: true, but source.kind 'repa' has no moments of mirrored images"
                )
            if self.source.on_error == "skip":
                raise ValueError(
                    "source.on_error: 'skip', but the images of source.kind 'repa' are not decoded again"
                )
        return self

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        side = self.image_size // self.autoencoder.downsampling
        return self.autoencoder.latent_channels, side, side


# -------------------------------------------------------------------------------------------------------------- model

# Depth, hidden size, number of heads of the DiT family (Peebles and Xie 2023, table 1), which SiT keeps.
SIZES = {"S": (12, 384, 6), "B": (12, 768, 12), "L": (24, 1024, 16), "XL": (28, 1152, 16)}
PRESETS = {
    f"SiT-{size}/{patch}": {
        "depth": depth,
        "hidden_size": hidden_size,
        "num_heads": num_heads,
        "patch_size": patch,
    }
    for size, (depth, hidden_size, num_heads) in SIZES.items()
    for patch in (2, 4, 8)
}


class BackboneConfig(ConfigModel):
    """The backbone: a named size, or free numbers; numbers beside a name override it."""

    preset: str | None = None
    """`SiT-S/2`, `SiT-B/2`, `SiT-L/2`, `SiT-XL/2`, or the same with patch 4 or 8."""
    depth: PositiveInt
    """Number of transformer blocks."""
    hidden_size: PositiveInt
    """Length D of a token."""
    num_heads: PositiveInt
    """Attention heads; divides `hidden_size`."""
    patch_size: PositiveInt
    """Side p of the square of latents that becomes one token."""
    mlp_ratio: PositiveFloat = 4.0
    """Hidden width of a block's MLP over D."""
    qk_norm: bool = True
    """Normalise queries and keys (on in the authors' runs, off in original SiT checkpoints)."""

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, values: Any) -> Any:
        if not isinstance(values, Mapping) or values.get("preset") is None:
            return values
        if values["preset"] not in PRESETS:
            raise ValueError(
                f"preset: {values['preset']!r} is unknown (allowed: {', '.join(PRESETS)})"
            )
        return {**PRESETS[values["preset"]], **values}

    @model_validator(mode="after")
    def _fits_sincos_table(self) -> Self:
        if self.hidden_size % self.num_heads:
            raise ValueError(
                f"num_heads: {self.num_heads} does not divide hidden_size {self.hidden_size}"
            )
        if self.hidden_size % 4:
            raise ValueError(
                f"hidden_size: {self.hidden_size} is not a multiple of 4, as the 2-D sin-cos table needs"
            )
        return self


# ----------------------------------------------------------------------------------------------------------- guidance


class TimeRangeConfig(ConfigModel):
    """Where in time a training alignment acts."""

    low: UnitFloat = 0.4
    """First t at which the alignment counts."""
    high: UnitFloat = 0.7
    """Last t at which it counts."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"low: {self.low} is above high {self.high}")
        return self


class TeacherConfig(ConfigModel):
    """Which weights become the frozen teacher."""

    run: Name
    """Name of the run, in the same experiment."""
    step: PositiveInt
    """One of its checkpoints."""
    weights: Weights = "raw"
    """Trained weights or their moving average (the authors froze the raw ones)."""


class FrozenTeacher(NamedTuple):
    """A checkpoint of another run, cut at a block: what a alignment may ask the workflow for."""

    choice: TeacherConfig
    depth: int


class EncoderUse(NamedTuple):
    """An encoder of the data set, and how its features come: from the store, or from images as they are trained on."""

    name: str
    features: Literal["store", "images"]


class NoAlignmentConfig(ConfigModel):
    """SiT as it is: no training alignment but denoising."""

    method: Literal["none"] = "none"


class AlignmentConfig(ConfigModel):
    """What every training alignment says; CONTRIBUTING.md tells how to add one."""

    implementation: ClassVar[str]
    """Its class, `module:name`; imported only where it is trained, since reading an experiment never imports torch."""
    method: str
    """Name of the method."""
    weight: PositiveFloat = 0.5
    """Factor lambda of the term in the loss."""
    stop_after: PositiveInt | None = None
    """Optimizer step after which the term is switched off; never, if it is not given."""

    @property
    def student_blocks(self) -> dict[str, int]:
        """Keys that name blocks of the run's own model."""
        return {}

    @property
    def frozen_teacher(self) -> FrozenTeacher | None:
        """The frozen teacher that the alignment follows."""
        return None

    @property
    def encoder_use(self) -> EncoderUse | None:
        """The encoder of the data set that the alignment follows."""
        return None


class VaeAlignmentConfig(AlignmentConfig):
    """Stage 1: tokens of a shallow block predict the diffusion target in VAE latent space."""

    implementation = "selftrans.alignment.vae_alignment:VaeAlignmentLoss"
    method: Literal["vae-alignment"]
    depth: PositiveInt
    """Student block, counted from 1."""
    target: Literal["velocity", "latent"] = "velocity"
    """What is predicted: the velocity (the authors' code) or the clean latent (the letter of the text)."""
    t_range: TimeRangeConfig = TimeRangeConfig()
    """Times at which the term counts."""
    projector_width: PositiveInt = 2048
    """Hidden width of the three-layer projector."""

    @property
    def student_blocks(self) -> dict[str, int]:
        """The block that is aligned."""
        return {"depth": self.depth}


class SelfTranscendenceConfig(AlignmentConfig):
    """Stage 2: a shallow block follows the frozen teacher's deeper features, guided in feature space."""

    implementation = "selftrans.alignment.self_transcendence:SelfTranscendenceLoss"
    method: Literal["self-transcendence"]
    teacher: TeacherConfig
    """The model whose features are followed."""
    student_depth: PositiveInt
    """Student block, counted from 1."""
    teacher_depth: PositiveInt
    """Teacher block, counted from 1."""
    guidance_scale: float = 5.0
    """Scale w of f_u + w (f_c - f_u)."""
    t_range: TimeRangeConfig = TimeRangeConfig()
    """Times at which the term counts."""
    projector_width: PositiveInt = 2048
    """Hidden width of the three-layer projector."""

    @property
    def student_blocks(self) -> dict[str, int]:
        """The block that learns."""
        return {"student_depth": self.student_depth}

    @property
    def frozen_teacher(self) -> FrozenTeacher:
        """The teacher, cut at the block that is followed."""
        return FrozenTeacher(self.teacher, self.teacher_depth)


class RepaConfig(AlignmentConfig):
    """REPA (Yu et al. 2025): a block follows an external encoder's patch tokens of the clean image."""

    implementation = "selftrans.alignment.repa:RepaLoss"
    method: Literal["repa"]
    encoder: Name
    """One of the data file's `encoders`."""
    depth: PositiveInt
    """Student block, counted from 1 (8 for XL/2, 4 for B/2)."""
    features: Literal["store", "images"] = "store"
    """Read the features from a store that a rule of its own makes beside the latents, or compute them from the images at
    every step, which saves the disk (half a terabyte for ImageNet at ViT-B) and costs the encoder's forward pass."""
    projector_width: PositiveInt = 2048
    """Hidden width of the three-layer projector."""

    @property
    def student_blocks(self) -> dict[str, int]:
        """The block that is aligned."""
        return {"depth": self.depth}

    @property
    def encoder_use(self) -> EncoderUse:
        """The encoder whose tokens are followed."""
        return EncoderUse(self.encoder, self.features)


class DecayConfig(ConfigModel):
    """A weight that falls late in training."""

    after: Annotated[int, Field(ge=0)] = 750_000
    """Optimizer step at which it starts to fall (SRA's code: epoch 149 of ImageNet at batch 256)."""
    steps: PositiveInt = 5_000_000
    """Steps in which it falls to a tenth (SRA's code: 1,000 epochs)."""


class SraConfig(AlignmentConfig):
    """SRA (Jiang et al. 2025): a block follows a deeper block of the model's own moving average at less noise."""

    implementation = "selftrans.alignment.sra:SraLoss"
    method: Literal["sra"]
    student_depth: PositiveInt
    """Student block, counted from 1 (8 for XL/2, 4 for B/2)."""
    teacher_depth: PositiveInt
    """Block of the moving average, counted from 1 (20 for XL/2, 8 for B/2)."""
    loss: Literal["smooth-l1", "cosine"] = "smooth-l1"
    """Smooth L1 with beta 0.05 (the paper's runs), or the negative cosine (what its authors advise now)."""
    weight: PositiveFloat
    """Factor of the term in the loss; 2 for `smooth-l1` and 0.5 for `cosine`, if it is not given."""
    decay: DecayConfig | None
    """A further factor 0.1^(1 + (step - after)/steps), 0.1 before; given for `smooth-l1`, none for `cosine`, as in its code."""
    less_noise: UnitFloat = 0.2
    """The teacher sees t' = t - u less_noise, u ~ U(0, 1), not below 0."""
    projector_width: PositiveInt | None = None
    """Hidden width of the two-layer head; twice the model's width, if it is not given."""

    @model_validator(mode="before")
    @classmethod
    def _fill_by_loss(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        cosine = values.get("loss", "smooth-l1") == "cosine"
        return {"weight": 0.5 if cosine else 2.0, "decay": None if cosine else {}, **values}

    @property
    def student_blocks(self) -> dict[str, int]:
        """Both blocks are the model's."""
        return {"student_depth": self.student_depth, "teacher_depth": self.teacher_depth}


class LayerSyncConfig(AlignmentConfig):
    """LayerSync (Haghighi et al. 2025): a block follows a deeper block of the same forward pass, without a projector."""

    implementation = "selftrans.alignment.layersync:LayerSyncLoss"
    method: Literal["layersync"]
    student_depth: PositiveInt
    """Block that learns, counted from 1 (8 for XL/2)."""
    teacher_depth: PositiveInt
    """Deeper block that it follows, through which no gradient goes (16 for XL/2)."""
    weight: PositiveFloat = 0.2
    """Factor lambda of the term in the loss."""

    @model_validator(mode="after")
    def _teacher_is_deeper(self) -> Self:
        if self.teacher_depth <= self.student_depth:
            raise ValueError(
                f"teacher_depth: {self.teacher_depth} is not deeper than student_depth {self.student_depth}"
            )
        return self

    @property
    def student_blocks(self) -> dict[str, int]:
        """Both blocks are the model's."""
        return {"student_depth": self.student_depth, "teacher_depth": self.teacher_depth}


BuiltInAlignment = VaeAlignmentConfig | SelfTranscendenceConfig | RepaConfig | SraConfig | LayerSyncConfig  # fmt: skip
METHODS = tuple(
    get_args(member.model_fields["method"].annotation)[0]
    for member in (NoAlignmentConfig, *get_args(BuiltInAlignment))
)


def _one_or_several(value: Any) -> str:
    return "several" if isinstance(value, list | tuple) else "one"


OneAlignment = Annotated[NoAlignmentConfig | BuiltInAlignment, Field(discriminator="method")]
SeveralAlignments = Annotated[
    tuple[Annotated[BuiltInAlignment, Field(discriminator="method")], ...], Field(min_length=1)
]
Alignments = Annotated[
    Annotated[OneAlignment, Tag("one")] | Annotated[SeveralAlignments, Tag("several")],
    Discriminator(_one_or_several),
]


# ----------------------------------------------------------------------------------------------------------- training


class TrainingConfig(ConfigModel):
    """One recipe for every run of an experiment; a run may override parts of it."""

    checkpoints: Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
    """Optimizer steps that leave weights behind: teachers and evaluations choose among them."""
    batch_size: PositiveInt = 256
    """Images per optimizer step, over all processes."""
    learning_rate: PositiveFloat = 1e-4
    """Constant learning rate of AdamW."""
    betas: tuple[UnitFloat, UnitFloat] = (0.9, 0.999)
    """AdamW's averaging factors."""
    eps: PositiveFloat = 1e-8
    """AdamW's epsilon."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """AdamW's decoupled weight decay."""
    clip_norm: PositiveFloat | None = 1.0
    """Largest norm of the gradient; none if null."""
    ema_decay: UnitFloat = 0.9999
    """Decay per step of the moving average of the weights."""
    label_dropout: UnitFloat = 0.1
    """Probability that a label is replaced by the null class."""
    interpolant: InterpolantName = "linear"
    """Interpolant between data (t=0) and noise (t=1)."""
    time_sampling: Literal["uniform", "log-normal"] = "uniform"
    """Distribution of t."""
    precision: Literal["auto"] | Precision = "auto"
    """Arithmetic of forward and backward; `auto` is bf16 where the device has it and the width gains by it, else fp32."""
    tf32: bool = False
    """Let a GPU round the factors of fp32 matrix products and convolutions to TF32."""
    accumulate: PositiveInt = 1
    """Micro-batches per optimizer step and process."""
    activation_checkpointing: bool = False
    """Recompute activations block by block in the backward pass, to save memory."""
    compile: bool = False
    """Compile the backbone with torch.compile."""
    deterministic: bool = True
    """On GPUs, sum in a fixed order, so that a resumed training has the same bits; without, attention may be faster."""
    log_every: PositiveInt = 100
    """Optimizer steps that one logged loss is the mean of."""
    save_minutes: PositiveFloat = 10.0
    """Minutes between two saves of the state in progress."""

    @model_validator(mode="after")
    def _steps_and_batches_add_up(self) -> Self:
        if list(self.checkpoints) != sorted(set(self.checkpoints)):
            raise ValueError(f"checkpoints: {list(self.checkpoints)} must ascend without repeats")
        if self.log_every > self.checkpoints[0]:
            raise ValueError(
                f"log_every: {self.log_every} is beyond the first checkpoint, {self.checkpoints[0]}"
            )
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"accumulate: {self.accumulate} does not divide batch_size {self.batch_size}"
            )
        return self

    def check_processes(self, processes: int, where: str) -> None:
        """Refuse a number of processes that the global batch cannot be shared among.

        Raises:
            ConfigError: naming ``where`` the recipe stands.
        """
        if self.batch_size % (processes * self.accumulate):
            raise ConfigError(
                f"{where}: training.batch_size: {self.batch_size} is not a multiple of {processes} processes"
                f" times {self.accumulate} micro-batches"
            )


# What may change without changing the numbers of a run: the list of checkpoints, and how the work is done. The precision
# does change them: a run's definition holds what `auto` came to where it was trained.
EXECUTION_FIELDS = {
    "checkpoints", "precision", "accumulate", "activation_checkpointing", "compile", "deterministic", "log_every",
    "save_minutes",
}  # fmt: skip


class ImportedConfig(ConfigModel):
    """A checkpoint that others trained, to be sampled, evaluated or followed as a teacher."""

    file: str
    """`.pt` or `.safetensors` with the parameter names of SiT, DiT and REPA; nothing in it is executed. A published file of
    one set of weights counts as `ema`, also where it is a teacher."""
    convention: Convention
    """Where the noise is: at t = 1 (REPA, the authors of Self-Transcendence), or the data, with the velocity turned (SiT)."""
    step: PositiveInt
    """Optimizer steps it was trained for, by which it is called."""
    scale: PositiveFloat = 0.18215
    """Factor of the latents that it was trained on."""
    shift: float = 0.0
    """What was subtracted from them before."""
    ignore: tuple[str, ...] = ()
    """Beginnings of the names of further training-only heads in it."""


# Where images and autoencoder lie on a machine: no part of what is made of them, whose digests are recorded.
LOCATION_FIELDS = {"source": {"path"}, "autoencoder": {"path"}}


class RunConfig(ConfigModel):
    """One arm of the comparison."""

    label: str | None = None
    """Name in figures and tables; the run's key if it is not given."""
    imported: ImportedConfig | None = None
    """A checkpoint that is there already: nothing is trained."""
    grid: Name | None = None
    """The grid that made this run; filled in."""
    alignment: Alignments = NoAlignmentConfig()
    """The training alignment, or a list of several whose weighted terms are added."""
    model: BackboneConfig
    """Backbone; what is not given here is the experiment's."""
    training: TrainingConfig
    """Recipe; what is not given here is the experiment's."""

    @model_validator(mode="before")
    @classmethod
    def _imported_has_one_checkpoint(cls, values: Any) -> Any:
        imported = values.get("imported") if isinstance(values, Mapping) else None
        if not isinstance(imported, Mapping) or not isinstance(step := imported.get("step"), int):
            return values
        if not isinstance(training := values.get("training", {}), Mapping):
            return values
        training = {**training, "checkpoints": (step,), "log_every": 1}
        return {**values, "training": training}

    @model_validator(mode="after")
    def _imported_is_not_aligned(self) -> Self:
        if self.imported and self.alignments:
            raise ValueError("alignment: an imported checkpoint is not trained (allowed: none)")
        return self

    @property
    def alignments(self) -> tuple[AlignmentConfig, ...]:
        """The terms of the loss beside denoising."""
        if isinstance(self.alignment, NoAlignmentConfig):
            return ()
        return self.alignment if isinstance(self.alignment, tuple) else (self.alignment,)

    @property
    def teachers(self) -> tuple[FrozenTeacher, ...]:
        """The frozen teachers, one for each signal that follows one, in order."""
        return tuple(
            teacher for alignment in self.alignments if (teacher := alignment.frozen_teacher)
        )

    @property
    def encoders(self) -> tuple[EncoderUse, ...]:
        """The encoders that signals follow, each once."""
        return tuple(
            dict.fromkeys(
                encoder for alignment in self.alignments if (encoder := alignment.encoder_use)
            )
        )


# --------------------------------------------------------------------------------------------------------- evaluation


class GuidanceConfig(ConfigModel):
    """Classifier-free guidance in an interval of time; outside it only the conditional pass is run."""

    scale: float = 1.0
    """Scale of v_u + scale (v_c - v_u); 1 is no guidance. A list is a sweep: a set of samples for each of its scales."""
    low: UnitFloat = 0.0
    """First t that is guided."""
    high: UnitFloat = 1.0
    """Last t that is guided."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"low: {self.low} is above high {self.high}")
        return self


class SamplerConfig(ConfigModel):
    """How one set of samples is drawn from a checkpoint."""

    sampler: Literal["euler", "heun", "euler-maruyama"]
    """ODE (Euler, Heun) or SDE (Euler-Maruyama)."""
    num_steps: Annotated[int, Field(ge=2)] = 250
    """Steps from noise to data (SDE: grid points from 1 to 0.04, then one last step to 0)."""
    num_samples: Annotated[int, Field(ge=2)] = 10000
    """Images."""
    guidance: GuidanceConfig = GuidanceConfig()
    """Classifier-free guidance."""
    weights: Weights = "ema"
    """Which weights are sampled."""
    labels: Literal["balanced", "random"] = "balanced"
    """Class of sample i: i modulo the number of classes, or drawn from (seed, i)."""
    seed: Seed = 0
    """Seed of labels, noise and SDE paths; sample i is a function of (seed, i)."""
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    """Arithmetic of the network; the state of the sampler is always float64. `tf32` rounds the factors of products on GPUs."""
    decoder_precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of the autoencoder's decoder."""
    checkpoints: Literal["all", "last"] | tuple[PositiveInt, ...] = "all"
    """Which checkpoints are sampled."""
    sweep: Name | None = None
    """The sweep that this set belongs to; filled in where `guidance.scale` is a list."""


class EvaluationConfig(ConfigModel):
    """What is measured, on which samples."""

    extractor: Literal["classifier", "inception"] = "classifier"
    """Feature network of every metric but `fd-dinov2`, which has its own."""
    metrics: Annotated[tuple[Metric, ...], Field(min_length=1)] = ("fid", "is")
    """Numbers to compute."""
    distances: DistanceArithmetic = "fp32"
    """Arithmetic of the distances of precision and recall; `adm` is half precision, as in the ADM evaluator."""
    keep_samples: bool = True
    """Keep all images; else they are deleted once their statistics are there, but for the first ones."""
    samplers: Annotated[dict[Name, SamplerConfig], Field(min_length=1)]
    """Sets of samples, by name."""

    @model_validator(mode="before")
    @classmethod
    def _expand_sweeps(cls, values: Any) -> Any:
        if not isinstance(values, Mapping) or not isinstance(values.get("samplers"), Mapping):
            return values
        return {**values, "samplers": dict(_expanded(values["samplers"]))}

    @model_validator(mode="after")
    def _metrics_fit_the_extractor(self) -> Self:
        for metric in self.metrics:
            allowed = METRIC_EXTRACTORS[metric]
            if self.extractor_of(metric) not in allowed:
                raise ValueError(
                    f"metrics: {metric!r} needs extractor {' or '.join(allowed)}, found {self.extractor!r}"
                )
        return self

    def metrics_of(self, extractor: ExtractorName) -> tuple[Metric, ...]:
        """The metrics that are computed from an extractor's features."""
        return tuple(metric for metric in self.metrics if self.extractor_of(metric) == extractor)

    def extractor_of(self, metric: Metric) -> ExtractorName:
        """The extractor that a metric is computed with."""
        return "dinov2" if metric == "fd-dinov2" else self.extractor

    @property
    def extractors(self) -> tuple[ExtractorName, ...]:
        """All that are needed."""
        return tuple(dict.fromkeys(self.extractor_of(metric) for metric in self.metrics))

    @property
    def sweeps(self) -> dict[str, tuple[str, ...]]:
        """The sets of samples of each sweep over the guidance scale."""
        names: dict[str, tuple[str, ...]] = {}
        for name, sampler in self.samplers.items():
            if sampler.sweep:
                names[sampler.sweep] = (*names.get(sampler.sweep, ()), name)
        return names


def _expanded(samplers: Mapping[Any, Any]) -> Iterator[tuple[Any, Any]]:
    """The samplers, one for each scale of those that sweep over a list of them."""
    for name, sampler in samplers.items():
        guidance = sampler.get("guidance") if isinstance(sampler, Mapping) else None
        scales = guidance.get("scale") if isinstance(guidance, Mapping) else None
        if not isinstance(guidance, Mapping) or not isinstance(scales, list | tuple):
            yield name, sampler
            continue
        key = f"samplers.{name}.guidance.scale"
        if not scales or not all(isinstance(scale, int | float) for scale in scales):
            raise ValueError(f"{key}: {list(scales)} is no list of numbers")
        if len(set(scales)) != len(scales):
            raise ValueError(f"{key}: {list(scales)} has repeats")
        for scale in scales:
            if (expanded := f"{name}-scale{scale}") in samplers:
                raise ValueError(
                    f"{key}: {scale} makes a sampler {expanded!r}, which is there already"
                )
            yield expanded, {**sampler, "guidance": {**guidance, "scale": scale}, "sweep": name}


FIRST_IMAGES = 100
"""Images of every set that stay for figures when the others are deleted."""
ENCODE_BATCH = 64
"""Images that an extraction encodes at a time: fixed, so that the stored bytes do not depend on how the work is cut."""
DECODED_ELEMENTS = 32 * 4 * 32 * 32
"""Latents that are decoded at a time: those of 32 images of 256 pixels."""


class GridConfig(ConfigModel):
    """A run, varied in some of its keys: a run for each combination of values, and a figure of them all."""

    run: Name
    """The run that is varied; a combination that it has itself is that run."""
    vary: Annotated[dict[str, Annotated[tuple[Any, ...], Field(min_length=1)]], Field(min_length=1)]
    """Values of keys of the run, for instance `alignment.guidance_scale: [5, 15, 30]`."""
    label: str | None = None
    """Name in figures, with the values in place of `{0}`, `{1}`; `{0[low]}` is a key of a value."""
    runs: tuple[Name, ...] = ()
    """The grid's runs; filled in."""


class PublishedCurves(ConfigModel):
    """Curves that others published, to be drawn dashed behind ours (`experiments/published/NAME.yaml`)."""

    source: str
    """Who published them, where, how they were read, and under which conditions."""
    metric: Literal["fid", "is"]
    """What they show."""
    curves: dict[Name, Annotated[tuple[tuple[PositiveInt, float], ...], Field(min_length=1)]]
    """For runs of the experiment, optimizer steps and values."""


class FiguresConfig(ConfigModel):
    """What is drawn."""

    sampler: Name
    """The sampler whose FID the convergence figure shows and whose images the sample figure shows."""
    sample_checkpoints: tuple[PositiveInt, ...]
    """Steps in the sample figure."""
    sample_columns: Annotated[int, Field(gt=0, le=FIRST_IMAGES)] = 10
    """Images per method and step in the sample figure: the first ones of the set."""
    published: PublishedCurves | None = None
    """Name of a file in `experiments/published/`, or the path of one."""
    baseline: Name | None = None
    """The run that the others are compared with, seed by seed; the first one, if it is not given."""
    width_inches: PositiveFloat = 5.5
    """Width of a figure; 5.5 inches is the text width of most venues."""
    dpi: PositiveInt = 200
    """Resolution of the PNGs."""


class AnalysisConfig(ConfigModel):
    """What is asked about the features of trained models; nothing of it touches a training."""

    encoder: Name | None = None
    """The data file's encoder whose features the blocks are compared with; none, if it is not given."""
    times: Annotated[tuple[UnitFloat, ...], Field(min_length=1)] = (0.1, 0.3, 0.5, 0.7)
    """Times t that images are noised to."""
    num_images: PositiveInt = 5000
    """Images that are probed, drawn from all; every tenth of the data set is what probes are tested on."""
    neighbours: PositiveInt = 20
    """Neighbours k of the k-NN probe, by cosine."""
    shown_classes: Annotated[int, Field(gt=0, le=8)] = 3
    """Classes in the colour maps, evenly spread, with two images of each."""
    shown_time: UnitFloat = 0.5
    """Time of the colour maps and of the similarity between blocks; one of `times`."""
    shown_blocks: tuple[PositiveInt, ...] | None = None
    """Blocks in the colour maps; those at one third and two thirds of the depth, if they are not given."""
    guidance_scales: Annotated[tuple[float, ...], Field(min_length=1)] = (1.5, 5.0, 30.0)
    """Scales w of the guided features f_g that are shown beside the others."""

    @model_validator(mode="after")
    def _shown_time_is_analysed(self) -> Self:
        if self.shown_time not in self.times:
            allowed = ", ".join(map(str, self.times))
            raise ValueError(
                f"shown_time: {self.shown_time} is none of `times` (allowed: {allowed})"
            )
        return self

    def blocks_shown(self, model: BackboneConfig) -> tuple[int, ...]:
        """The blocks of a model whose colours are shown."""
        thirds = (max(1, round(model.depth / 3)), max(1, round(2 * model.depth / 3)))
        return self.shown_blocks or tuple(dict.fromkeys(thirds))


class JobResources(ConfigModel):
    """What a rule asks the scheduler for."""

    threads: PositiveInt = 1
    """CPU threads."""
    mem_mb: PositiveInt | None = None
    """Memory of a node in MB; estimated from the experiment, if it is not given."""
    runtime: PositiveInt | None = None
    """Time limit in minutes; if it is not given, what the work takes on GPUs by the stated rates, and half as much again; 60
    on a CPU. A profile may set a ceiling (`max_runtime`)."""
    gpu: Annotated[int, Field(ge=0)] = 0
    """GPUs; one process for each."""
    nodes: PositiveInt = 1
    """Nodes that a training's GPUs or processes are shared among; more than one are started by `srun`."""
    processes: PositiveInt = 1
    """Processes where there is no GPU."""
    batch_size: PositiveInt = 256
    """Images at a time where images are sampled or seen by an extractor; numbers depend on it by rounding at most."""


class ResourcesConfig(ConfigModel):
    """What each kind of job asks for."""

    data: JobResources = JobResources()
    """Autoencoder, classifier, encoders, reference statistics."""
    extract: JobResources = JobResources()
    """Latents and encoders' features, on any number of GPUs or processes; each decodes images in its share of the threads."""
    train: JobResources = JobResources()
    """One segment of a training."""
    generate: JobResources = JobResources()
    """One set of samples."""
    evaluate: JobResources = JobResources()
    """Features and statistics of one set of samples."""
    light: JobResources = JobResources(mem_mb=1000, runtime=10)
    """Numbers, tables and figures from saved statistics."""


class ExperimentConfig(ConfigModel):
    """One comparison: runs that differ in what they say, and in nothing else."""

    name: Name
    """Name under which the results lie; the file's name if it is not given."""
    description: str = ""
    """One or two sentences for the reader."""
    data: DatasetConfig
    """Name of a data file in `experiments/data/`, or the path of one."""
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0,)
    """Every run is trained once for each seed."""
    model: BackboneConfig
    """Backbone of every run."""
    training: TrainingConfig
    """Recipe of every run."""
    runs: Annotated[dict[Name, RunConfig], Field(min_length=1)]
    """The arms, by name."""
    grids: dict[Name, GridConfig] = {}
    """Runs that are varied, by name."""
    evaluation: EvaluationConfig
    """What is measured."""
    figures: FiguresConfig
    """Settings of the figures."""
    analysis: AnalysisConfig | None = None
    """What is asked about the features; nothing, if it is not given."""
    resources: ResourcesConfig = ResourcesConfig()
    """What the jobs ask for; `config.yaml` may override it."""

    @model_validator(mode="before")
    @classmethod
    def _runs_inherit(cls, values: Any) -> Any:
        if not isinstance(values, Mapping) or not isinstance(values.get("runs"), Mapping):
            return values
        runs = {}
        for name, run in values["runs"].items():
            runs[name] = run
            if isinstance(run, Mapping):
                inherited = {
                    key: merged(values.get(key, {}), run.get(key, {}))
                    for key in ("model", "training")
                }
                runs[name] = {**run, **inherited}
        return expand_grids({**values, "runs": runs}, _is_same_run)

    @model_validator(mode="after")
    def _runs_are_possible(self) -> Self:
        if self.name == "data":
            raise ValueError("name: 'data' is where data sets lie (allowed: any other name)")
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds: {list(self.seeds)} has repeats")
        names: dict[str, str] = {}
        for name, run in self.runs.items():
            if (other := names.setdefault(run.label or name, name)) != name:
                raise ValueError(
                    f"runs.{name}.label: {run.label or name!r} is the name of run {other!r}, too"
                )
            self._check_patches(f"runs.{name}.model", run.model)
            self._check_alignment(name, run)
        for name in self.runs:
            self._check_acyclic((name,))
        return self

    def _check_patches(self, key: str, model: BackboneConfig) -> None:
        side = self.data.latent_shape[1]
        if side % model.patch_size:
            raise ValueError(
                f"{key}.patch_size: {model.patch_size} does not divide the {side}x{side} latents"
            )

    def _check_alignment(self, name: str, run: RunConfig) -> None:
        for number, alignment in enumerate(run.alignments):
            key = f"runs.{name}.alignment" + (
                f".{number}" if isinstance(run.alignment, tuple) else ""
            )
            for block, depth in alignment.student_blocks.items():
                _check_depth(f"{key}.{block}", depth, run.model)
            if alignment.frozen_teacher:
                self._check_teacher(key, run, alignment.frozen_teacher)
            if alignment.encoder_use:
                self._check_encoder(f"{key}.encoder", alignment.encoder_use.name)
        ways: dict[str, str] = {}
        for encoder in run.encoders:
            if ways.setdefault(encoder.name, encoder.features) != encoder.features:
                raise ValueError(
                    f"runs.{name}.alignment: features of {encoder.name!r} are 'store' and 'images' at once"
                )

    def _check_encoder(self, key: str, name: str) -> None:
        if name not in self.data.encoders:
            allowed = ", ".join(self.data.encoders) or "none"
            raise ValueError(
                f"{key}: {name!r} is no encoder of data {self.data.name!r} (allowed: {allowed})"
            )

    def _check_teacher(self, key: str, run: RunConfig, teacher: FrozenTeacher) -> None:
        choice = teacher.choice
        if choice.run not in self.runs:
            raise ValueError(
                f"{key}.teacher.run: {choice.run!r} is no run (allowed: {', '.join(self.runs)})"
            )
        source = self.runs[choice.run]
        if choice.step not in source.training.checkpoints:
            allowed = ", ".join(map(str, source.training.checkpoints))
            raise ValueError(
                f"{key}.teacher.step: {choice.step} is not a checkpoint of {choice.run!r} (allowed: {allowed})"
            )
        for what, own, other in (
            ("model.patch_size", run.model.patch_size, source.model.patch_size),
            ("training.interpolant", run.training.interpolant, source.training.interpolant),
        ):
            if own != other:
                raise ValueError(
                    f"{key}.teacher.run: {choice.run!r} has {what} {other}, its student has {own}"
                )
        _check_depth(f"{key}.teacher_depth", teacher.depth, source.model)

    def _check_acyclic(self, chain: tuple[str, ...]) -> None:
        """Refuse a run that is taught by itself, or by a student of its own."""
        for teacher in self.runs[chain[-1]].teachers:
            taught_by = teacher.choice.run
            if taught_by == chain[0]:
                raise ValueError(
                    f"runs.{chain[0]}.alignment.teacher.run: {' -> '.join((*chain, taught_by))} is a circle"
                )
            if taught_by not in chain:
                self._check_acyclic((*chain, taught_by))

    @model_validator(mode="after")
    def _evaluation_is_possible(self) -> Self:
        if not {"fid", "is"} & {*self.evaluation.metrics}:
            raise ValueError(
                "evaluation.metrics: the convergence figure needs fid or is among them"
            )
        steps = {step for run in self.runs.values() for step in run.training.checkpoints}
        chosen = {
            f"evaluation.samplers.{name}.checkpoints": sampler.checkpoints
            for name, sampler in self.evaluation.samplers.items()
            if isinstance(sampler.checkpoints, tuple)
        }
        for key, wanted in chosen.items():
            _check_steps(key, wanted, steps, "not a checkpoint of any run")
        for run in self.figures.published.curves if self.figures.published else ():
            if run not in self.runs:
                raise ValueError(
                    f"figures.published.curves: {run!r} is no run (allowed: {', '.join(self.runs)})"
                )
        if self.figures.sampler not in self.evaluation.samplers:
            allowed = ", ".join(self.evaluation.samplers)
            raise ValueError(
                f"figures.sampler: {self.figures.sampler!r} is no sampler (allowed: {allowed})"
            )
        if self.baseline not in self.runs:
            raise ValueError(
                f"figures.baseline: {self.baseline!r} is no run (allowed: {', '.join(self.runs)})"
            )
        if self.trained_runs and self.baseline not in self.trained_runs:
            raise ValueError(
                f"figures.baseline: {self.baseline!r} was not trained here (allowed: a run that was)"
            )
        if not self.evaluated_steps(self.baseline, self.figures.sampler):
            raise ValueError(
                f"figures.sampler: {self.figures.sampler!r} samples no checkpoint of the baseline {self.baseline!r}"
            )
        sampled = {
            step for run in self.runs for step in self.evaluated_steps(run, self.figures.sampler)
        }
        absent = f"not sampled by {self.figures.sampler!r}"
        _check_steps("figures.sample_checkpoints", self.figures.sample_checkpoints, sampled, absent)
        shown = self.evaluation.samplers[self.figures.sampler]
        if self.figures.sample_columns > shown.num_samples:
            raise ValueError(
                f"figures.sample_columns: {self.figures.sample_columns} is beyond the {shown.num_samples} samples"
                f" of {self.figures.sampler!r} (allowed: 1 to {shown.num_samples})"
            )
        return self

    @model_validator(mode="after")
    def _analysis_is_possible(self) -> Self:
        if (analysis := self.analysis) is None:
            return self
        if analysis.encoder is not None:
            self._check_encoder("analysis.encoder", analysis.encoder)
        for run in self.runs.values():
            for depth in analysis.shown_blocks or ():
                _check_depth("analysis.shown_blocks", depth, run.model)
        return self

    @property
    def baseline(self) -> str:
        """The run that the others are compared with."""
        return self.figures.baseline or next(iter(self.trained_runs or self.runs))

    @property
    def main_runs(self) -> dict[str, RunConfig]:
        """The runs in figures of the whole experiment: those that no grid made."""
        return {name: run for name, run in self.runs.items() if run.grid is None}

    @property
    def trained_runs(self) -> tuple[str, ...]:
        """Names of the runs that are not imported."""
        return tuple(name for name, run in self.runs.items() if not run.imported)

    @property
    def aligned_runs(self) -> tuple[str, ...]:
        """Names of the main runs that have a training alignment."""
        return tuple(name for name, run in self.main_runs.items() if run.alignments)

    def evaluated_steps(self, run: str, sampler: str) -> tuple[int, ...]:
        """The checkpoints of ``run`` that ``sampler`` is applied to."""
        steps = self.runs[run].training.checkpoints
        if self.runs[run].imported:  # its only checkpoint is what there is to sample
            return steps
        match self.evaluation.samplers[sampler].checkpoints:
            case "all":
                return steps
            case "last":
                return steps[-1:]
            case chosen:
                return tuple(step for step in steps if step in chosen)


def _is_same_run(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether two runs of a file train alike, defaults filled in."""
    named = {"label": None, "grid": None}
    try:
        pair = [RunConfig.model_validate(_with_tuples({**run, **named})) for run in (first, second)]
    except ValidationError:  # said when the whole file is validated
        return False
    return pair[0] == pair[1]


def _check_steps(key: str, wanted: tuple[int, ...], there: set[int], problem: str) -> None:
    for step in wanted:
        if step not in there:
            raise ValueError(
                f"{key}: {step} is {problem} (allowed: {', '.join(map(str, sorted(there)))})"
            )


def _check_depth(key: str, depth: int, model: BackboneConfig) -> None:
    if depth > model.depth:
        raise ValueError(
            f"{key}: {depth} is beyond the model's {model.depth} blocks (allowed: 1 to {model.depth})"
        )


# ------------------------------------------------------------------------------------------------------------ reading


class _Loader(yaml.SafeLoader):
    """YAML in which 1e-4 is a number and a key that is a duplicate key is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [
            self.construct_object(key, deep=True)
            for key, _ in node.value
            if key.tag != "tag:yaml.org,2002:merge"
        ]
        for position, key in enumerate(keys):
            if key in keys[:position]:
                raise yaml.constructor.ConstructorError(
                    problem=f"key {key!r} is a duplicate key", problem_mark=node.start_mark
                )
        return super().construct_mapping(node, deep=deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*)(\.\d*)?[eE][-+]?\d+$"),
    list("-+0123456789"),
)


def merged(base: Any, changes: Any) -> Any:
    """``base`` with ``changes`` over it: mappings merge key by key, anything else replaces."""
    if not (isinstance(base, Mapping) and isinstance(changes, Mapping)):
        return changes
    if "preset" in changes:  # a named size stands for its numbers: the base's do not override it
        base = {key: value for key, value in base.items() if key not in PRESETS["SiT-B/2"]}
    return {
        **base,
        **{
            key: merged(base[key], value) if key in base else value
            for key, value in changes.items()
        },
    }


def read_yaml(path: Path) -> dict[str, Any]:
    """Read one YAML mapping.

    Raises:
        ConfigError: the file is absent, is not YAML, or is no mapping.
    """
    try:
        value = _Loader(path.read_text(encoding="utf-8")).get_single_data()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        problem = " ".join(str(error).split())
        raise ConfigError(f"{path}: not YAML ({problem})") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: holds a {type(value).__name__}, allowed is a mapping of keys")
    return value


def validated(model: type[S], values: Mapping[str, Any], where: str) -> S:
    """Check ``values`` against ``model``.

    Raises:
        ConfigError: in one line, the first key that is wrong, what was found and what is allowed.
    """
    try:
        return model.model_validate(
            _with_tuples(values), strict=True
        )  # strict: no "5" for 5, no true for 1
    except ValidationError as error:
        first, *others = [_explain(problem) for problem in error.errors()]
        more = f" (and {len(others)} more)" if others else ""
        raise ConfigError(f"{where}: {first}{more}") from None


def _with_tuples(value: Any) -> Any:
    """YAML's lists as tuples, which strict validation wants."""
    if isinstance(value, Mapping):
        return {key: _with_tuples(item) for key, item in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list | tuple) else value


def _explain(problem: Any) -> str:
    """One pydantic problem as ``key: what is wrong``."""
    message = problem["msg"].removeprefix("Value error, ")
    location = ".".join(_without_tags(problem["loc"]))
    match problem["type"]:
        case "extra_forbidden":
            return f"{location}: unknown key"
        case "missing":
            return f"{location}: is missing"
        case "value_error":
            return f"{location}.{message}" if location else message
        case "union_tag_invalid" | "union_tag_not_found":
            context = problem["ctx"]
            key = f"{location}.{context['discriminator'].strip(chr(39))}"
            if "tag" not in context:
                return f"{key}: is missing"
            return f"{key}: {context['tag']!r} is unknown (allowed: {context['expected_tags']})"
    return f"{location}: {message[0].lower()}{message[1:]}, found {problem['input']!r}"


# What pydantic puts into a location for the chosen member of a union: the file has no such level.
_TAGS = {
    *METHODS,
    "one",
    "several",
    "trained",
    "pretrained",
    "digits",
    "folder",
    "zip",
    "huggingface",
    "repa",
}
_NAMED_BY_USERS = ("runs", "encoders", "samplers")


def _without_tags(location: tuple[str | int, ...]) -> Iterator[str]:
    """A problem's location as the keys of the file."""
    for before, part in zip((None, *location), location, strict=False):
        is_tag = part in _TAGS and before not in _NAMED_BY_USERS
        if not is_tag and not str(part).startswith(("literal[", "tuple[", "str")):
            yield str(part)


def load_experiment(
    reference: str | Path, data_changes: Mapping[str, Mapping[str, Any]] | None = None
) -> ExperimentConfig:
    """Read an experiment file and the data file that it names.

    Args:
        reference: the path of an experiment file, or the name of one in ``experiments/``. A file may say
            ``extends: OTHER`` and give only what differs.
        data_changes: changes to data files, by their names.

    Raises:
        ConfigError: in one line: the file, the key, what was found, what is allowed.
    """
    path = experiment_path(reference)
    values = {"name": path.stem, **_read_extended(path, EXPERIMENTS, {})}
    if isinstance(values.get("data"), str):
        values["data"] = load_data(values["data"], data_changes).model_dump()
    figures = values.get("figures")
    if isinstance(figures, dict) and isinstance(published := figures.get("published"), str):
        values["figures"] = {**figures, "published": _load_published(published).model_dump()}
    return validated(ExperimentConfig, values, str(path))


def _load_published(reference: str) -> PublishedCurves:
    path = _find(reference, EXPERIMENTS / "published")
    return validated(PublishedCurves, read_yaml(path), str(path))


def load_data(
    reference: str | Path, changes: Mapping[str, Mapping[str, Any]] | None = None
) -> DatasetConfig:
    """Read a data file: the path of one, or the name of one in ``experiments/data/``; it, too, may say ``extends``.

    Args:
        reference: path or name.
        changes: changes to data files, by their names.

    Raises:
        ConfigError: in one line: the file, the key, what was found, what is allowed.
    """
    path = _find(str(reference), DATA_FILES)
    values = {"name": path.stem, **_read_extended(path, DATA_FILES, changes or {})}
    return validated(DatasetConfig, values, str(path))


def experiment_path(reference: str | Path) -> Path:
    """The file that ``reference`` means: a path, or a name in ``experiments/``."""
    return _find(str(reference), EXPERIMENTS)


def _find(reference: str, directory: Path) -> Path:
    if _is_path(reference):
        return Path(reference)
    path = directory / f"{reference}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in directory.glob("*.yaml"))) or "none"
        raise ConfigError(
            f"{reference!r} is neither a .yaml file nor a name in {directory}/ (there: {known})"
        )
    return path


def _read_extended(
    path: Path,
    directory: Path,
    changes: Mapping[str, Mapping[str, Any]],
    through: tuple[Path, ...] = (),
) -> dict[str, Any]:
    """A file with its changes over what it extends, a path or a name in ``directory``; paths are relative to the file."""
    if path.resolve() in through:
        raise ConfigError(f"{path}: extends: is circular")
    values = read_yaml(path)
    if _is_path(values.get("data")):
        values["data"] = str(path.parent / values["data"])
    figures = values.get("figures")
    if isinstance(figures, dict) and _is_path(figures.get("published")):
        figures["published"] = str(path.parent / figures["published"])
    base = values.pop("extends", None)
    values = dict(merged(values, changes.get(values.get("name", path.stem), {})))
    if base is None:
        return values
    base_path = path.parent / base if _is_path(base) else _find(str(base), directory)
    base_values = _read_extended(base_path, directory, changes, (*through, path.resolve()))
    base_values.pop("name", None)
    return dict(merged(base_values, values))


def _is_path(reference: Any) -> bool:
    return isinstance(reference, str) and reference.endswith((".yaml", ".yml"))


def experiment_schema() -> dict[str, Any]:
    """JSON schema of an experiment file, for editors (``experiments/schema.json``)."""
    schema = ExperimentConfig.model_json_schema()
    parts = schema["$defs"]
    # A run gives only what differs, a preset stands for its numbers.
    for inherited in ("BackboneConfig", "TrainingConfig"):
        parts[inherited].pop("required")
    parts["SraConfig"]["required"] = [
        key for key in parts["SraConfig"]["required"] if key not in ("weight", "decay")
    ]
    parts["RunConfig"]["required"] = []
    for part, key in ((schema, "data"), (parts["FiguresConfig"], "published")):  # files, by name
        part["properties"][key] = {
            "type": "string",
            "description": part["properties"][key]["description"],
        }
    parts["FiguresConfig"]["properties"]["published"]["type"] = ["string", "null"]
    scale = parts["GuidanceConfig"]["properties"]["scale"]
    number = scale.pop("type")
    scale["anyOf"] = [{"type": number}, {"type": "array", "items": {"type": number}, "minItems": 1}]
    return _or_changes(schema, "Experiment file", EXPERIMENTS)


def data_schema() -> dict[str, Any]:
    """JSON schema of a data file, for editors (``experiments/data/schema.json``)."""
    return _or_changes(DatasetConfig.model_json_schema(), "Data file", DATA_FILES)


def _or_changes(schema: dict[str, Any], kind: str, directory: Path) -> dict[str, Any]:
    """The schema of files that are whole, or extend another file and then may leave out anything."""
    description = f"{kind} whose content this one changes: a name in `{directory}/`, or a path."
    schema["properties"]["extends"] = {"type": "string", "description": description}
    whole = {key: schema.pop(key) for key in ("properties", "required")}
    whole["required"] = [key for key in whole["required"] if key != "name"]
    changes = {"properties": _without_required(whole["properties"])}
    schema["$defs"] |= {
        f"{name}Changes": _without_required(part) for name, part in schema["$defs"].items()
    }
    named = {
        key: {"description": value["description"]} for key, value in whole["properties"].items()
    }
    return {
        **schema,
        "properties": named,
        "if": {"required": ["extends"]},
        "then": changes,
        "else": whole,
    }


def _without_required(node: Any) -> Any:
    """A part of a schema in which any key may be left out, down to the bottom."""
    if isinstance(node, list):
        return [_without_required(item) for item in node]
    if not isinstance(node, dict):
        return node
    kept = {
        key: _without_required(value)
        for key, value in node.items()
        if key not in ("required", "discriminator")
    }
    if "oneOf" in kept:  # without what is required, several may fit
        kept["anyOf"] = kept.pop("oneOf")
    return {**kept, "$ref": f"{node['$ref']}Changes"} if "$ref" in node else kept
