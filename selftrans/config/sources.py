"""Where images, and their captions, come from."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from selftrans.config.base import ConfigModel, Line, PositiveInt, Seed

Combinations = Literal["training", "held_out", "all"]
SCENE_SIZES = (32, 64, 128)
"""Sides in pixels that scenes are drawn at."""


class SourceConfig(ConfigModel):
    """What every source says of its images."""

    @property
    def has_classes(self) -> bool:
        """Whether the images have classes."""
        return True

    @property
    def has_captions(self) -> bool:
        """Whether the images have captions."""
        return False


class DigitsSource(SourceConfig):
    """The 1,797 handwritten digits of scikit-learn (8x8 scans of 10 classes, UCI optdigits)."""

    kind: Literal["digits"]


class ScenesSource(SourceConfig):
    """Drawn scenes of one to three objects, with captions that are true by construction.

    Nothing is read: scene i is a function of these keys and of i, to the bit on any machine. The
    classes are size, texture and shape of a scene's main object.
    """

    kind: Literal["scenes"]
    count: PositiveInt
    """Number of scenes."""
    seed: Seed = 0
    """Of the world."""
    first: Annotated[int, Field(ge=0, le=10**12)] = 0
    """Index of the first scene. Ranges that do not overlap have no scene in common."""
    combinations: Combinations = "training"
    """Pairs of shape and colour: `training` leaves six of 36 out, `held_out` has one of the six in
    every scene, `all` draws from all alike."""

    @property
    def has_captions(self) -> bool:
        """Whether the images have captions."""
        return True


class FileSource(SourceConfig):
    """What sources of image files have in common.

    Images get the ADM crop: halved by box averages, resized bicubically, cropped at the centre.
    """

    path: Line
    """Where the images lie."""
    on_error: Literal["stop", "skip"] = "stop"
    """An image that cannot be decoded, or has no caption where there are captions, ends the job
    with its name, or is left out and listed in the manifest of the latents."""
    exif_rotation: bool = False
    """Turn images as their EXIF data say. ADM's preparation, whose statistics the field compares
    with, does not."""


class _CaptionFiles(FileSource):
    """A source whose images may have text files beside them."""

    captions: Literal["txt"] | None = None
    """`txt`: beside every image lies a text file of its name with `.txt`, whose lines are captions.
    Folders are no classes then; classes are those of a `dataset.json`, or one of the name `all`."""

    @property
    def has_classes(self) -> bool:
        """Whether the images have classes: those with captions need none."""
        return self.captions is None

    @property
    def has_captions(self) -> bool:
        """Whether the images have captions."""
        return self.captions is not None


class FolderSource(_CaptionFiles):
    """A folder with a folder of images for each class, as ImageNet's `train/`.

    Or a folder whose `dataset.json` holds the labels, as EDM's.
    """

    kind: Literal["folder"]


class ZipSource(_CaptionFiles):
    """A zip of such a folder, read without unpacking."""

    kind: Literal["zip"]


class _OnlyCaptions(FileSource):
    """A source whose images have captions, if only as features of their tokens, and no classes."""

    @property
    def has_classes(self) -> bool:
        """There are none."""
        return False

    @property
    def has_captions(self) -> bool:
        """There are some."""
        return True


class CocoSource(_OnlyCaptions):
    """MS-COCO: a folder of images, and the captions of its JSON file.

    Images come in the order of their ids, and an image's captions in that of the file, as
    pycocotools gives them. There is one class, `all`.
    """

    kind: Literal["coco"]
    annotations: Line
    """The captions, for instance `annotations/captions_train2014.json`. Images of the folder that
    it does not list are passed over."""
    crop: Literal["lanczos", "adm"] = "lanczos"
    """`lanczos`: the centre square, resized by Lanczos' filter, as U-ViT's preparation, whose
    statistics the field compares with. `adm`: as ImageNet's images."""


class HuggingFaceSource(FileSource):
    """A directory that `save_to_disk` of Hugging Face's `datasets` wrote."""

    kind: Literal["huggingface"]
    split: Line | None = None
    """Which split, where the directory holds several."""
    image_column: Line = "image"
    """Name of the column of images."""
    label_column: Line | None = "label"
    """Name of the column of classes. With captions it may be null: one class, `all`."""
    caption_column: Line | Annotated[tuple[Line, ...], Field(min_length=1)] | None = None
    """Name of the column of captions, or a list of names: each holds a text, or a list of texts,
    for every image."""

    @model_validator(mode="after")
    def _has_classes_or_captions(self) -> Self:
        if self.label_column is None and self.caption_column is None:
            raise ValueError("label_column: null, which only a source with `caption_column` may be")
        return self

    @property
    def has_classes(self) -> bool:
        """Whether the images have classes."""
        return self.label_column is not None

    @property
    def has_captions(self) -> bool:
        """Whether the images have captions."""
        return self.caption_column is not None


class RepaSource(FileSource):
    """What REPA's preparation makes: `images/`, and their moments in `vae-sd/`.

    The moments are reused without encoding. At 512 pixels the folders may be `images-512/` and
    `vae-sd-512/`, as the authors' are. Moments may be there without images, as SRA's are: then
    nothing that reads images works, and `reference` has to be named.
    """

    kind: Literal["repa"]


class UvitSource(_OnlyCaptions):
    """What U-ViT's preparation of MS-COCO makes, which REPA and Self-Transcendence train on.

    `{i}.npy` (moments), `{i}_{k}.npy` (text features of the captions) and, in its successors,
    `{i}.png` and `{i}.txt`. `empty_context.npy` lies beside or above them. Moments and features
    are reused without encoding. There is one class, `all`.
    """

    kind: Literal["uvit"]
    moments: Literal["log_variance", "deviation"] = "log_variance"
    """What lies behind the means: U-ViT and REPA read log variances, Self-Transcendence standard
    deviations."""


AnySource = Annotated[
    DigitsSource
    | ScenesSource
    | FolderSource
    | ZipSource
    | CocoSource
    | HuggingFaceSource
    | RepaSource
    | UvitSource,
    Field(discriminator="kind"),
]
