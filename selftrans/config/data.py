"""What is learnt from: images, crop, autoencoder, latents; and the small networks beside it."""

from typing import Annotated, Literal, Self

from pydantic import Field, WithJsonSchema, model_validator

from selftrans.config.base import (
    Condition,
    ConfigModel,
    Line,
    Name,
    PositiveFloat,
    PositiveInt,
    Precision,
    Seed,
)
from selftrans.config.defaults import VERSION
from selftrans.config.sources import SCENE_SIZES, AnySource, RepaSource, ScenesSource, UvitSource

ENCODE_BATCH = 64
"""Images that an extraction encodes at a time. It is fixed, so that the stored bytes do not depend
on the number of processes."""


ClassName = Annotated[Line, Field(max_length=100)]
_LIST_OR_FILE = WithJsonSchema(
    {"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": ["string", "null"]}]}
)


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
    """Weight of the KL divergence per latent element against the squared error per pixel."""
    seed: Seed = 0
    """Seed of weights, order and posterior noise."""

    @model_validator(mode="after")
    def _groups_divide_channels(self) -> Self:
        for channels in self.block_channels:
            if channels % self.norm_groups:
                raise ValueError(
                    f"norm_groups: {self.norm_groups} does not divide block_channels {channels}"
                )
        return self

    @property
    def downsampling(self) -> int:
        """Pixels per latent, along a side."""
        return 2 ** (len(self.block_channels) - 1)


class PretrainedAutoencoderConfig(ConfigModel):
    """An existing autoencoder of diffusers: a directory of `save_pretrained`, or a hub name."""

    kind: Literal["pretrained"]
    path: Line
    """Directory, or name on the Hugging Face hub, for instance `stabilityai/sd-vae-ft-mse`."""
    decoder: Line | None = None
    """The same of another autoencoder, whose decoder makes the images; its own, if it is not given.
    SiT, REPA and their successors encode by one and decode by `stabilityai/sd-vae-ft-ema`."""
    latent_channels: PositiveInt = 4
    """Channels C of its latents."""
    downsampling: PositiveInt = 8
    """Pixels per latent, along a side."""


AutoencoderConfig = Annotated[
    TrainedAutoencoderConfig | PretrainedAutoencoderConfig, Field(discriminator="kind")
]


class LatentsConfig(ConfigModel):
    """How the posterior's moments are stored."""

    dtype: Literal["float16", "float32"] = "float16"
    """Precision of the stored means and standard deviations."""
    shard_size: PositiveInt = 16384
    """Images per shard; a shard is the unit of work and of resuming."""
    flip: bool = False
    """Store the mirrored image's moments as well; training samples one of the two at every
    visit."""
    precision: Precision = "fp32"
    """Arithmetic of the encoder."""


class ClassifierConfig(ConfigModel):
    """A small classifier trained on the data: the feature extractor where there is no Inception."""

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


class ReaderConfig(ConfigModel):
    """A small network that reads off a picture what a drawn scene shows."""

    width: Annotated[int, Field(gt=0, multiple_of=16)] = 32
    """Channels of its layers: the first one has half as many."""
    scenes: PositiveInt = 40_000
    """Scenes that it is trained on, drawn for it alone, held-out combinations included."""
    steps: PositiveInt = 1000
    """Optimizer steps."""
    batch_size: PositiveInt = 128
    """Images per step."""
    learning_rate: PositiveFloat = 3e-3
    """Peak learning rate of AdamW; it falls to zero along half a cosine."""
    seed: Seed = 0
    """Seed of weights, order and pixel noise."""


class TrainedEncoderConfig(ConfigModel):
    """A small timm vision transformer, trained to classify the data by a rule of its own.

    It stands in for DINOv2 where no weights can be had, and is called a stand-in wherever it is
    shown: unlike DINOv2 it has seen the labels.
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
    """An existing vision transformer: any of timm's, with its published weights or a file."""

    kind: Literal["pretrained"]
    model: Line
    """Name in timm, for instance `vit_base_patch14_dinov2` (REPA's DINOv2 ViT-B)."""
    input_size: PositiveInt = 224
    """Side in pixels that images are resized to. 224 gives 16x16 patches of 14, the grid of SiT
    with patch 2 at 256 pixels."""
    weights: Line | None = None
    """File of weights (`.safetensors`, `.pth`); timm's own from the Hugging Face hub, if it is not
    given."""


EncoderConfig = Annotated[
    TrainedEncoderConfig | PretrainedEncoderConfig, Field(discriminator="kind")
]


class WordsEncoderConfig(ConfigModel):
    """A fixed random vector for each word, in place of a text encoder.

    It stands in where no weights can be had: it needs none, and knows nothing of any word.
    """

    kind: Literal["words"]
    length: Annotated[int, Field(ge=3, le=4096)] = 32
    """Tokens L of a caption: a start, its words, and ends. More are cut off, and counted."""
    size: Annotated[int, Field(gt=0, le=2**16, multiple_of=2)] = 64
    """Length K of a word's vector."""

    @property
    def shape(self) -> tuple[int, int]:
        """(L, K)."""
        return self.length, self.size


class PretrainedTextEncoderConfig(ConfigModel):
    """An existing text encoder of transformers: CLIP's, T5's or any other by its name."""

    kind: Literal["pretrained"]
    path: Line
    """Directory, or name on the Hugging Face hub, for instance `openai/clip-vit-large-patch14`,
    which must be in the hub's cache."""
    length: Annotated[int, Field(ge=3, le=4096)] = 77
    """Tokens L of a caption. More are cut off, and counted."""
    size: Annotated[int, Field(gt=0, le=2**16)] = 768
    """Length K of a token's features."""

    @property
    def shape(self) -> tuple[int, int]:
        """(L, K)."""
        return self.length, self.size


class PreparedTextConfig(ConfigModel):
    """Features of captions that the source's own preparation made, for `source.kind: uvit`."""

    kind: Literal["prepared"]
    length: Annotated[int, Field(ge=1, le=4096)] = 77
    """Tokens L of a caption."""
    size: Annotated[int, Field(gt=0, le=2**16)] = 768
    """Length K of a token's features."""

    @property
    def shape(self) -> tuple[int, int]:
        """(L, K)."""
        return self.length, self.size


TextEncoderConfig = Annotated[
    WordsEncoderConfig | PretrainedTextEncoderConfig | PreparedTextConfig,
    Field(discriminator="kind"),
]


class DatasetConfig(ConfigModel):
    """A data set as it is learnt from. Experiments that name it share its latents."""

    name: Name
    """Name under which the results lie; the file's name if it is not given."""
    defaults: PositiveInt = VERSION
    """Version of the defaults; that of its results if there are any, else the newest."""
    source: AnySource
    """Where the images come from."""
    images: PositiveInt | None = None
    """How many images the source has. Another number is refused, and a plan can be made before the
    images are there."""
    image_size: PositiveInt
    """Height and width of the square images, in pixels."""
    autoencoder: AutoencoderConfig
    """The map between images and latents."""
    latents: LatentsConfig = LatentsConfig()
    """Storage of the latents."""
    classifier: ClassifierConfig = ClassifierConfig()
    """The embedded feature extractor."""
    reader: ReaderConfig | None = None
    """The network that reads off samples what they show; for `source.kind: scenes` alone."""
    encoders: dict[Name, EncoderConfig] = Field(default_factory=dict)
    """Vision transformers whose patch tokens REPA follows and the analysis compares with, by
    name."""
    captions: PositiveInt | None = None
    """How many captions the images have. Another number is refused, and a plan can be made before
    they are there."""
    text_encoder: TextEncoderConfig | None = None
    """What encodes the captions of the images, for backbones that are conditioned on them."""
    class_names: Annotated[tuple[ClassName, ...] | None, _LIST_OR_FILE] = None
    """What classes are called in figures and commands, in their order: a list, or the path of a
    text file with a line for each, beside this file. If it is not given, as their folders, as the
    data set's own label column says, or as ImageNet's. Names are no part of any result."""
    reference: Line | None = None
    """What samples are measured against: an ADM reference batch (`.npz`), a folder of images, a
    data file, or statistics of ours; all images of this data set, if it is not given."""

    @model_validator(mode="after")
    def _latents_are_whole(self) -> Self:
        if self.image_size % (factor := self.autoencoder.downsampling):
            raise ValueError(
                f"image_size: {self.image_size} is not a multiple of the autoencoder's {factor}"
            )
        return self

    @model_validator(mode="after")
    def _has_captions_to_encode(self) -> Self:
        if self.text_encoder is not None and not self.source.has_captions:
            raise ValueError("text_encoder: is set, but the source has no captions")
        prepared = isinstance(self.text_encoder, PreparedTextConfig)
        if prepared and not isinstance(self.source, UvitSource):
            raise ValueError(
                f"text_encoder.kind: 'prepared', but source.kind is {self.source.kind!r}"
                " (allowed: 'uvit')"
            )
        return self

    @model_validator(mode="after")
    def _scenes_fit_their_pixels(self) -> Self:
        if isinstance(self.source, ScenesSource) and self.image_size not in SCENE_SIZES:
            allowed = ", ".join(map(str, SCENE_SIZES))
            raise ValueError(
                f"image_size: {self.image_size}, but source.kind 'scenes' is drawn at {allowed}"
            )
        return self

    @model_validator(mode="after")
    def _only_scenes_are_read(self) -> Self:
        if self.reader is not None and not isinstance(self.source, ScenesSource):
            raise ValueError(
                f"reader: is given, but source.kind is {self.source.kind!r} (allowed: 'scenes')"
            )
        return self

    @model_validator(mode="after")
    def _prepared_moments_are_as_they_are(self) -> Self:
        if isinstance(self.source, RepaSource | UvitSource):
            kind = self.source.kind
            if self.latents.flip:
                raise ValueError(
                    f"latents.flip: true, but source.kind {kind!r} has no moments of mirrored"
                    " images"
                )
            if self.source.on_error == "skip":
                raise ValueError(
                    f"source.on_error: 'skip', but images of source.kind {kind!r} are decoded"
                    " already"
                )
        return self

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """What a backbone may be conditioned on."""
        classes: tuple[Condition, ...] = ("class",) if self.source.has_classes else ()
        return classes if self.text_encoder is None else (*classes, "caption")

    @property
    def caption_shape(self) -> tuple[int, int] | None:
        """(L, K) of the features of a caption's tokens, where captions are encoded."""
        return None if self.text_encoder is None else self.text_encoder.shape

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        side = self.image_size // self.autoencoder.downsampling
        return self.autoencoder.latent_channels, side, side
