"""Pictures of chosen classes from a checkpoint.

``python -m selftrans.sampling.sample_grid --help``
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from selftrans.config import GuidanceConfig, SamplerConfig
from selftrans.data.class_names import named_classes, parse_classes
from selftrans.runtime.arguments import CommandLine, at_least, check_output, within
from selftrans.runtime.devices import add_gpu_argument, claim_device
from selftrans.runtime.errors import UserError, run_main
from selftrans.runtime.files import atomic_path
from selftrans.runtime.logs import set_up_logging
from selftrans.sampling.generate import ImageSampler

MODULE = "selftrans.sampling.sample_grid"
MAX_COLUMNS = 1000
PICTURES = (".png", ".jpg", ".jpeg", ".webp")
FindAutoencoder = Callable[[Path], tuple[str | None, str | None]]
FindNames = Callable[[Path], Sequence[str] | None]


def labelled_grid(rows: Sequence[NDArray[np.uint8]], names: Sequence[str]) -> Image.Image:
    """A row of images for each class, (columns, H, W, 3), with its name above."""
    columns, height, width = rows[0].shape[:3]
    line = max(12, height // 12)
    font = ImageFont.load_default(line * 0.8)
    sheet = Image.new("RGB", (columns * width, len(rows) * (height + line)), "white")
    draw = ImageDraw.Draw(sheet)
    for row, (images, name) in enumerate(zip(rows, names, strict=True)):
        top = row * (height + line)
        draw.text((2, top), name, fill="black", font=font)
        for column, image in enumerate(images):
            sheet.paste(Image.fromarray(image), (column * width, top + line))
    return sheet


def main(
    module: str = MODULE,
    find_autoencoder: FindAutoencoder | None = None,
    find_names: FindNames | None = None,
) -> None:
    """The command line.

    Args:
        module: what it is called in its usage.
        find_autoencoder: that of a checkpoint, or else another decoder, if neither is given;
            without it, one has to be.
        find_names: the names of a checkpoint's classes; None, or without it, their numbers, of
            1,000 classes ImageNet's names.
    """
    parser = CommandLine(
        prog=f"python -m {module}",
        description="Draw a row of samples for each class. A column has the same noise.",
    )
    parser.add_argument(
        "--checkpoint", type=Path, required=True, help="weight file of a checkpoint"
    )
    parser.add_argument("--classes", required=True, help="numbers or names, for instance 207,otter")
    parser.add_argument("--out", type=Path, required=True, help="the picture (.png, .jpg, .webp)")
    default = " (default: that of the checkpoint's experiment)" if find_autoencoder else ""
    options = parser.add_mutually_exclusive_group(required=not find_autoencoder)
    options.add_argument(
        "--autoencoder", help=f"directory or hub name of what made the latents{default}"
    )
    options.add_argument(
        "--decoder", help="that of another autoencoder, which decodes the same latents"
    )
    parser.add_argument(
        "--columns", type=at_least(1), default=4, help="samples of each class (default: 4)"
    )
    parser.add_argument(
        "--seed", type=at_least(0), default=0, help="seed of the noise (default: 0)"
    )
    samplers = get_args(SamplerConfig.model_fields["sampler"].annotation)
    parser.add_argument("--sampler", choices=samplers, default="euler", help="(default: euler)")
    parser.add_argument(
        "--steps", type=at_least(2), default=50, help="steps from noise to data (default: 50)"
    )
    parser.add_argument(
        "--scale",
        type=within(0, 1e4),
        default=1.0,
        help="scale of classifier-free guidance (default: 1, none)",
    )
    parser.add_argument(
        "--high", type=within(0, 1), default=1.0, help="last t that is guided (default: 1)"
    )
    add_gpu_argument(parser)
    arguments = parser.parse_args()
    set_up_logging()
    if arguments.out.suffix.lower() not in PICTURES:
        raise UserError(
            f"--out: {arguments.out} is not a picture's name (allowed: .png, .jpg, .webp)"
        )
    if arguments.columns > MAX_COLUMNS:
        raise UserError(f"--columns: {arguments.columns} is too many (allowed: 1 to {MAX_COLUMNS})")
    check_output(arguments.out, arguments.checkpoint)
    autoencoder, decoder = arguments.autoencoder, arguments.decoder
    if autoencoder is None and decoder is None and find_autoencoder is not None:
        autoencoder, decoder = find_autoencoder(arguments.checkpoint)
    sampler = ImageSampler(
        arguments.checkpoint,
        decoder or autoencoder,
        claim_device(min(arguments.gpus, 1)),
        other_decoder=decoder is not None,
    )
    numbers = [str(label) for label in range(sampler.model.shape.num_classes)]
    given = find_names(arguments.checkpoint) if find_names else None
    names = named_classes(numbers, given)
    classes = parse_classes(arguments.classes, names)
    settings = SamplerConfig(
        sampler=arguments.sampler,
        num_steps=arguments.steps,
        num_samples=max(2, arguments.columns),
        guidance=GuidanceConfig(scale=arguments.scale, high=arguments.high),
        seed=arguments.seed,
    )
    noise = range(arguments.columns)
    rows = [sampler.images(settings, noise, np.full(len(noise), label)) for label in classes]
    with atomic_path(arguments.out) as temporary:
        labelled_grid(rows, [names[label] for label in classes]).save(temporary)
    print(f"{arguments.out}: {', '.join(names[label] for label in classes)}")


if __name__ == "__main__":
    run_main(main)
