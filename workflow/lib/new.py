"""``selftrans new``: a data file and an experiment for images of a user's own.

The images are looked at first; sizes follow from them and from the machine.
"""

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import yaml

from selftrans.config import (
    DATA_FILES,
    EXPERIMENTS,
    FileSource,
    FolderSource,
    HuggingFaceSource,
    ZipSource,
    check_name,
    load_dataset,
)
from selftrans.data.captions import CAPTIONS_SUFFIX
from selftrans.data.image_paths import SUFFIXES
from selftrans.data.sources.base import ImageFiles
from selftrans.data.sources.folder import open_folder
from selftrans.data.sources.huggingface import import_datasets, open_hugging_face
from selftrans.data.sources.zip import open_zip
from selftrans.runtime.errors import UserError
from selftrans.runtime.files import read_fields, write_text
from workflow.lib.study import Study

LOOKED_AT = 200
"""Images whose sizes are read."""
SHOWN_CLASSES = 8
SMALL, LARGE = 32, 64
"""Sides of images that a CPU trains on in minutes, and in an hour or two."""
GPU_SIZES = (64, 128, 256, 512)
EXAMPLE = 1000
"""Samples of an evaluation on a CPU."""


@dataclass(frozen=True)
class Look:
    """What a set of images is like."""

    source: FileSource
    count: int
    class_names: tuple[str, ...]
    side: int
    """Median of the shorter sides, in pixels."""
    smallest: int

    def described(self) -> str:
        """In words."""
        names = ", ".join(self.class_names[:SHOWN_CLASSES])
        more = ", ..." if len(self.class_names) > SHOWN_CLASSES else ""
        return (
            f"{self.count:,} images of {len(self.class_names):,} classes ({names}{more});"
            f" shorter side {self.side} pixels in the median, {self.smallest} at least"
        )


def look(path: Path) -> Look:
    """Look at a folder of class folders, a zip of one, or a directory of Hugging Face's datasets.

    Raises:
        UserError: it is none of them, or holds no images with classes.
    """
    source = _source_of(path)
    match source:
        case ZipSource():
            images = open_zip(source, SMALL, ())
        case HuggingFaceSource():
            images = open_hugging_face(source, SMALL, ())
        case _:
            assert isinstance(source, FolderSource)
            images = open_folder(source, SMALL, ())
    sides = _sides(images)
    return Look(source, len(images.labels), images.class_names, round(median(sides)), min(sides))


def _source_of(path: Path) -> FileSource:
    where = str(path.absolute())
    if path.is_file() and path.suffix == ".zip":
        return ZipSource(kind="zip", path=where)
    if (path / "dataset_info.json").is_file() or (path / "dataset_dict.json").is_file():
        return _hugging_face(path, where)
    if path.is_dir():
        if caption := next(filter(_is_caption, sorted(path.glob(f"*{CAPTIONS_SUFFIX}"))), None):
            raise UserError(
                f"{path}: has captions beside its images, for instance {caption.name}; experiments"
                " with captions are written by hand (docs/tutorials/text-to-image.md)"
            )
        return FolderSource(kind="folder", path=where)
    if re.fullmatch(r"[\w.-]+/[\w.-]+", str(path)):
        raise UserError(
            f"{path}: no such folder; a data set of the Hugging Face hub is saved first: python -c"
            f" \"from datasets import load_dataset; load_dataset('{path}').save_to_disk('data')\""
        )
    raise UserError(
        f"{path}: no such folder (allowed: a folder of class folders, a .zip of one, or a directory"
        " of save_to_disk)"
    )


def _is_caption(path: Path) -> bool:
    return any(path.with_suffix(suffix).is_file() for suffix in SUFFIXES)


def _hugging_face(path: Path, where: str) -> HuggingFaceSource:
    """With the split ``train``, if there are several, and the columns of images and classes."""
    datasets = import_datasets()
    split = None
    described = path / "dataset_info.json"
    if (listed := path / "dataset_dict.json").is_file():
        splits = read_fields(listed, splits=list)["splits"]
        if not splits:
            raise UserError(f"{listed}: splits: has none")
        split = "train" if "train" in splits else str(splits[0])
        described = path / split / "dataset_info.json"
    features = datasets.Features.from_dict(read_fields(described, features=dict)["features"])
    kinds = (("image", datasets.Image), ("label", datasets.ClassLabel))
    chosen = {}
    for key, kind in kinds:
        found = [name for name, feature in features.items() if isinstance(feature, kind)]
        chosen[key] = found[0] if found and key not in found else key
    return HuggingFaceSource(
        kind="huggingface",
        path=where,
        split=split,
        image_column=chosen["image"],
        label_column=chosen["label"],
    )


def _sides(images: ImageFiles) -> list[int]:
    """Shorter sides of evenly spread images."""
    count = len(images.labels)
    chosen = np.unique(np.linspace(0, count - 1, min(count, LOOKED_AT)).round().astype(int))
    return [min(images.size_of(int(index))) for index in chosen]


def image_size(found: Look, gpus: int, asked: int | None) -> int:
    """Side of the squares that are learnt from."""
    if asked is not None:
        return asked
    if not gpus:
        return SMALL if found.side < 2 * SMALL else LARGE
    return max((size for size in GPU_SIZES if size <= found.side), default=GPU_SIZES[0])


def data_text(found: Look, size: int, gpus: int) -> str:
    """A data file."""
    source = found.source.model_dump(exclude_defaults=True)
    source = {"kind": source.pop("kind"), **source}
    lines = [
        "# yaml-language-server: $schema=schema.json",
        *textwrap.wrap(f"{found.described()}.", 96, initial_indent="# ", subsequent_indent="# "),
        f"source: {yaml.safe_dump(source, default_flow_style=True, sort_keys=False).strip()}",
        f"images: {found.count}",
        f"image_size: {size} # squares, cropped at the centre",
        "",
    ]
    if gpus:
        lines += [
            "autoencoder: # Stable Diffusion's; `selftrans prefetch` fetches it",
            "  kind: pretrained",
            "  path: stabilityai/sd-vae-ft-mse",
            "  decoder: stabilityai/sd-vae-ft-ema",
        ]
    else:
        lines += [
            "autoencoder: # a small one, trained on these images",
            "  kind: trained",
            "  block_channels: [16, 32, 32] # a latent for 4x4 pixels",
            "  steps: 400",
            "",
            "classifier: # what FID is measured by, trained on these images",
            "  steps: 400",
        ]
    return "\n".join(lines) + "\n"


def experiment_text(found: Look, name: str, gpus: int) -> str:
    """An experiment: SiT, stage 1 and stage 2."""
    most = min(256 if gpus else 32, found.count)
    cards = min(gpus, most)
    return (_GPU if gpus else _CPU).format(
        name=name,
        classes=f"{len(found.class_names):,} classes",
        count=f"{found.count:,}",
        samples=min(10_000 if gpus else EXAMPLE, found.count),
        batch_size=most - most % max(1, cards),  # the cards share it evenly
        gpus=cards,
    )


def write_new(
    path: Path, name: str, *, gpus: int, size: int | None = None
) -> tuple[Look, Path, Path]:
    """Write ``experiments/data/NAME.yaml`` and ``experiments/NAME.yaml`` for images.

    Args:
        path: where the images lie.
        name: of both files.
        gpus: of this machine; without any, the experiment is one for a CPU.
        size: side of the squares; chosen by the images and the machine, if it is None.

    Raises:
        UserError: the images cannot be used, or one of the files is there.
    """
    check_name(name)
    found = look(path)
    data_file, experiment_file = DATA_FILES / f"{name}.yaml", EXPERIMENTS / f"{name}.yaml"
    for file in (data_file, experiment_file):
        if file.exists():
            raise UserError(f"{file}: is there (allowed: another --name)")
    try:
        write_text(data_file, data_text(found, image_size(found, gpus, size), gpus))
        load_dataset(name)
        write_text(experiment_file, experiment_text(found, name, gpus))
        Study.load({"experiments": [name]})
    except UserError:
        for file in (data_file, experiment_file):
            file.unlink(missing_ok=True)
        raise
    return found, data_file, experiment_file


_CPU = """\
# yaml-language-server: $schema=schema.json
# Sized for a CPU. `selftrans plan {name} --measure` says what it takes on this machine.
description: SiT, stage 1 and stage 2 on {count} images of {classes}.
data: {name}
seeds: [0] # [0, 1, 2] draws means and intervals

model: {{depth: 6, hidden_size: 96, num_heads: 4, patch_size: 2}}

training:
  checkpoints: [600, 1200, 1800, 2400, 3000] # all are evaluated
  batch_size: {batch_size}
  learning_rate: 2e-3
  ema_decay: 0.998
  log_every: 50

runs:
  sit:
    label: SiT
    alignment: {{method: none}}

  vae-align: # stage 1
    label: + VAE-based alignment
    alignment: {{method: vae-alignment, depth: 1, projector_width: 512}}

  self-transcendence: # stage 2 follows the frozen stage 1
    label: + Self-Transcendence
    alignment:
      method: self-transcendence
      teacher: {{run: vae-align, step: 3000, weights: ema}}
      student_depth: 3
      teacher_depth: 4
      guidance_scale: 5
      projector_width: 512

evaluation:
  extractor: classifier # an FID on these features never compares with an Inception FID
  metrics: [fid, is]
  samplers:
    ode: {{sampler: euler, num_steps: 25, num_samples: {samples}}}

figures:
  sampler: ode
  sample_checkpoints: [1200, 3000]
"""

_GPU = """\
# yaml-language-server: $schema=schema.json
# The method's values at SiT-B/2; `selftrans plan {name} --measure` says what it takes here.
description: SiT-B/2, stage 1 and stage 2 on {count} images of {classes}.
data: {name}
seeds: [0] # [0, 1, 2] draws means and intervals

model: {{preset: SiT-B/2}}

training:
  checkpoints: [50000, 100000, 200000] # all are evaluated
  batch_size: {batch_size}
  learning_rate: 1e-4
  precision: bf16
  tf32: true
  compile: true

runs:
  sit:
    label: SiT-B/2
    alignment: {{method: none}}

  vae-align: # stage 1
    label: + VAE-based alignment
    alignment: {{method: vae-alignment, depth: 2}}

  self-transcendence: # stage 2 follows the frozen stage 1
    label: + Self-Transcendence
    alignment:
      method: self-transcendence
      teacher: {{run: vae-align, step: 200000, weights: raw}}
      student_depth: 6
      teacher_depth: 8
      guidance_scale: 30

evaluation:
  extractor: inception # its weights: `selftrans weights inception --fetch`
  metrics: [fid, is]
  samplers:
    sde: {{sampler: euler-maruyama, num_steps: 250, num_samples: {samples}}}

figures:
  sampler: sde
  sample_checkpoints: [50000, 200000]

resources:
  train: {{gpu: {gpus}}}
  extract: {{gpu: {gpus}}}
  generate: {{gpu: 1}}
  evaluate: {{gpu: 1}}
"""
