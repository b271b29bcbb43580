"""A miniature ImageNet: class folders of odd-sized JPEGs, with every nasty kind of the real one."""

import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

CLASSES = 20
NASTY = ("cmyk", "grey", "rgba", "rotated")
ORIENTATION = 0x0112  # the EXIF tag


def picture(label: int, rng: np.random.Generator) -> Image.Image:
    """A shape of the class's colour and kind on a noisy ground, of odd size."""
    width, height = (int(side) for side in rng.integers(40, 150, 2))
    ground = rng.integers(60, 120, 3)
    noise = rng.integers(-15, 15, (height, width, 3))
    image = Image.fromarray((ground + noise).clip(0, 255).astype(np.uint8))
    draw, radius = ImageDraw.Draw(image), min(width, height) / 3
    x, y = width / 2 + rng.normal(0, 3), height / 2 + rng.normal(0, 3)
    colour = tuple(
        int(part)
        for part in np.array(
            [(37 * label) % 256, (91 * label + 80) % 256, (151 * label + 160) % 256]
        )
    )
    box = (x - radius, y - radius, x + radius, y + radius)
    (draw.ellipse, draw.rectangle)[label % 2](box, fill=colour)
    return image


def write_nasty(image: Image.Image, kind: str, path: Path) -> None:
    match kind:
        case "cmyk":
            image.convert("CMYK").save(path, "jpeg")
        case "grey":
            image.convert("L").save(path, "jpeg")
        case "rgba":  # ImageNet has a PNG that is called .JPEG
            image.putalpha(Image.linear_gradient("L").resize(image.size))
            image.save(path, "png")
        case "rotated":
            exif = Image.Exif()
            exif[ORIENTATION] = 6
            image.transpose(Image.Transpose.ROTATE_90).save(path, "jpeg", exif=exif, quality=95)


def make_imagenet(
    root: Path, per_class: int = 20, classes: int = CLASSES, corrupt: int = 0
) -> Path:
    """Write ``root/train/n00000012/n00000012_3.JPEG`` and so on; returns ``root/train``."""
    for label in range(classes):
        folder = root / "train" / f"n{label:08}"
        folder.mkdir(parents=True)
        for number in range(per_class):
            image = picture(label, np.random.default_rng([label, number]))
            path = folder / f"{folder.name}_{number}.JPEG"
            if label == 3 and number < len(NASTY):
                write_nasty(image, NASTY[number], path)
            else:
                image.save(path, "jpeg", quality=90)
    for number in range(corrupt):
        name = f"n{number:08}"
        path = root / "train" / name / f"{name}_{number}.JPEG"
        path.write_bytes(path.read_bytes()[: 300 + number])
    return root / "train"


def make_repa(root: Path, source, moments) -> Path:
    """What REPA's preparation makes: PNGs, an array of moments for each, two lists of classes."""
    for folder, prefix, suffix in (("images", "img", "png"), ("vae-sd", "img-mean-std-", "npy")):
        labels = []
        for place, label in enumerate(source.labels.tolist()):
            name = f"{place:08}"[:5] + f"/{prefix}{place:08}.{suffix}"
            path = root / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if suffix == "png":
                Image.fromarray(source.read(range(place, place + 1))[0]).save(
                    path, compress_level=0
                )
            else:
                np.save(path, moments[place].reshape(-1, *moments.shape[3:]))
            labels.append([name, label])
        (root / folder / "dataset.json").write_text(json.dumps({"labels": labels}))
    return root
