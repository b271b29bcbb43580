"""The decoder, Inception's features and the Fréchet distance against the CPU."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from selftrans.evaluation.activations import Activations
from selftrans.evaluation.inception import InceptionExtractor, inception_network, load_inception
from selftrans.evaluation.metrics import frechet_distance
from selftrans.evaluation.statistics import Moments
from selftrans.gpu_check.checks import Check, Finding, within
from selftrans.gpu_check.numerics import relative
from selftrans.gpu_check.workbench import Workbench
from selftrans.models.autoencoder import decode_in_parts
from selftrans.runtime.devices import tf32_allowed
from selftrans.runtime.errors import UserError

if TYPE_CHECKING:
    from selftrans.models.autoencoder import Autoencoder

CPU = torch.device("cpu")
FEATURES = 1e-4
"""Tolerated relative error of features."""
DISTANCE = 1e-3
"""Tolerated relative error of a Fréchet distance."""
DIFFERING = 0.01
"""Tolerated share of pixels that round to another level."""
TOLERANCE = (
    f"Features: {FEATURES:.0e} of their norm: 94 layers sum up to 4,000 products each, and a GPU's"
    " library may choose transforms (Winograd) that round a few times more coarsely; TF32 is off by"
    f" more. Fréchet distance: {DISTANCE:.0e} of it; half of the last digit of a published FID of"
    " 2.07 is 2.4e-03. Decoded pixels: a value beside the middle between two levels rounds to"
    f" either, so {DIFFERING:.0%} may differ, by one level."
)


def random_autoencoder(bench: Workbench, device: torch.device) -> Autoencoder:
    """An autoencoder of random weights, the same on every device."""
    from diffusers import AutoencoderKL

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        autoencoder: Autoencoder = AutoencoderKL(**bench.sizes.autoencoder)
    return autoencoder.requires_grad_(False).eval().to(device)


def random_images(count: int, size: int, seed: int = 0) -> Tensor:
    """Smooth random images, uint8 (B, H, W, 3): noise of few pixels, enlarged."""
    rng = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 8, 8, generator=rng)
    images = torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic")
    return (255 * images.clamp(0, 1)).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def inception(bench: Workbench, device: torch.device) -> InceptionExtractor:
    """Inception: the published weights where they are at hand, else random ones.

    Random layers let their signal die out; so each is normalised by the statistics of some images,
    as the batch normalisations of the published ones are.
    """
    try:
        return load_inception(bench.inception, device)
    except UserError:
        if bench.inception is not None:
            raise
    network = copy.deepcopy(random_inception()).to(device)
    return InceptionExtractor(network, "random", device)


@cache
def random_inception() -> Any:
    """The network with random weights, on the CPU."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = inception_network()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
    InceptionExtractor(network.train(), "", CPU)(random_images(2, 299, seed=9))
    return network.eval()


class Evaluation:
    """Features of two sets of images on both devices, computed once."""

    def __init__(self, bench: Workbench) -> None:
        self._bench = bench
        count, size = bench.sizes.inception_images, bench.sizes.image_size
        self.sets = [random_images(count, size, seed) for seed in (1, 2)]
        self._features: dict[str, list[Activations]] = {}
        self.weights = ""

    def features(self, device: torch.device) -> list[Activations]:
        """Activations of both sets in fp32, on the host."""
        if device.type not in self._features:
            extractor = self._extractor(device)
            self._features[device.type] = [_activations(extractor, one) for one in self.sets]
        return self._features[device.type]

    def _extractor(self, device: torch.device) -> InceptionExtractor:
        extractor = inception(self._bench, device)
        self.weights = "random" if extractor.digest == "random" else "published"
        return extractor

    def find_features(self) -> Finding:
        """Errors of features and of those of sFID, in fp32."""
        found, expected = self.features(self._bench.device)[0], self.features(CPU)[0]
        assert found.spatial is not None
        assert expected.spatial is not None
        errors = {
            "features": relative(found.features, expected.features),
            "spatial": relative(found.spatial, expected.spatial),
        }
        return self._named(within(errors, dict.fromkeys(errors, FEATURES)))

    def find_rounded(self) -> Finding:
        """How far TF32 is off, were it allowed: what the rule against it is worth."""
        with tf32_allowed(True):
            rounded = _activations(self._extractor(self._bench.device).compute, self.sets[0])
        error = relative(rounded.features, self.features(CPU)[0].features)
        return self._named(Finding(f"features {error:.1e}", {"features": error}))

    def find_distance(self) -> Finding:
        """Error of the Fréchet distance between both sets."""
        found, expected = (
            self._distance(self.features(device)) for device in (self._bench.device, CPU)
        )
        error = abs(found - expected) / expected
        close = within({"distance": error}, {"distance": DISTANCE})
        values = {**close.values, "found": found, "expected": expected}
        text = f"{found:.6g}, on the CPU {expected:.6g}, {close.text}"
        return self._named(Finding(text, values, close.passed))

    def _distance(self, sets: list[Activations]) -> float:
        gaussians = []
        for one in sets:
            rows = one.features[:, : self._bench.sizes.fid_features].numpy()
            moments = Moments.of_width(rows.shape[1])
            moments.add(rows)
            gaussians.append(moments.gaussian())
        first, second = gaussians
        return frechet_distance(first.mean, first.covariance, second.mean, second.covariance)

    def _named(self, found: Finding) -> Finding:
        return Finding(f"{found.text}; {self.weights} weights", found.values, found.passed)


def find_decoding(bench: Workbench) -> Finding:
    """How many pixels of decoded latents differ from the CPU's, and by how many levels."""
    rng = torch.Generator().manual_seed(0)
    latents = torch.randn(bench.sizes.sampled, *bench.sizes.latent_shape, generator=rng)
    found, expected = (
        decode_in_parts(random_autoencoder(bench, device), latents.to(device)).astype(np.int16)
        for device in (bench.device, CPU)
    )
    difference = np.abs(found - expected)
    errors = {
        "share that differs": float((difference > 0).mean()),
        "levels": float(difference.max()),
    }
    return within(errors, {"share that differs": DIFFERING, "levels": 1})


def _activations(compute: Callable[[Tensor], Activations], images: Tensor) -> Activations:
    parts = [compute(batch) for batch in images.split(64)]
    features, spatial = (
        torch.cat([vars(part)[name].cpu() for part in parts]).double()
        for name in ("features", "spatial")
    )
    return Activations(features=features, spatial=spatial)


def evaluation(bench: Workbench) -> Iterator[Check]:
    """All of them."""
    both = Evaluation(bench)
    yield Check("decoded pixels, fp32", partial(find_decoding, bench))
    yield Check("Inception features, TF32 off", both.find_features)
    yield Check("Fréchet distance, TF32 off", both.find_distance)
    yield Check("Inception features, were TF32 on", both.find_rounded)
