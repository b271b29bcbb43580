"""What a machine reaches: rates of products, training, extraction, sampling, decoding, features."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Literal

import torch

from selftrans.config import BackboneConfig, Precision, SamplerConfig
from selftrans.flow.times import velocity_passes
from selftrans.gpu_check.cases import fresh_backbone, random_condition
from selftrans.gpu_check.checks import Check, Finding, NotRun
from selftrans.gpu_check.evaluation import inception, random_autoencoder, random_images
from selftrans.gpu_check.numerics import Arithmetic, require_bf16
from selftrans.gpu_check.steps import TrainingStep
from selftrans.gpu_check.trainings import STAGE_1, Trainings
from selftrans.gpu_check.workbench import Workbench
from selftrans.models.autoencoder import decode_in_parts, encode_moments, in_precision
from selftrans.runtime.devices import tf32_allowed
from selftrans.runtime.files import read_fields
from selftrans.runtime.tensors import DTYPES
from selftrans.sampling.latents import SampleNoise, sample_latents

TOLERANCE = "Measurements: medians over repetitions after one to warm up, waiting for the device."
RATE = "rate"
"""Begins the names of values that plans take: ``rate bf16`` is TFLOP/s of a training in bf16."""
PRODUCTS = 20
"""That are timed at once."""
Rated = Literal["bf16", "tf32", "fp32"]
RATED: tuple[Rated, ...] = ("bf16", "tf32", "fp32")


class Measures:
    """Measurements; those of products come first, and the others are compared with them."""

    def __init__(self, bench: Workbench) -> None:
        self.bench = bench
        self.matrix: dict[Arithmetic, float] = {}

    def find_matrix_rate(self, arithmetic: Rated) -> Finding:
        """TFLOP/s of a product of large square matrices."""
        self._require(arithmetic)
        side, device = self.bench.sizes.matrix_side, self.bench.device
        dtype = torch.bfloat16 if arithmetic == "bf16" else torch.float32
        a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))

        def multiply() -> None:
            for _ in range(PRODUCTS):  # one alone ends before the card's clock has risen
                torch.matmul(a, b)

        with tf32_allowed(arithmetic == "tf32"):
            (seconds,) = self.bench.seconds(multiply)
        rate = self.matrix[arithmetic] = PRODUCTS * 2 * side**3 / seconds / 1e12
        return Finding(f"{rate:.4g} TFLOP/s, {side} x {side}", {"tflops": rate})

    def _require(self, arithmetic: str) -> None:
        if self.bench.on_gpu and arithmetic == "bf16":
            require_bf16()

    def find_training(self, model: BackboneConfig, arithmetic: Rated) -> Finding:
        """Images per second, TFLOP/s, share of the products' rate, memory, the host's part."""
        self._require(arithmetic)
        sizes = self.bench.sizes
        try:
            step = TrainingStep(self.bench, model, None, arithmetic, sizes.timed_batch)
            step()  # the first one makes the optimizer's moments
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            why = f"the card's memory does not suffice for a batch of {sizes.timed_batch}"
            raise NotRun(why) from None
        peak = self.bench.peak_gib(step)
        (seconds,) = self.bench.seconds(step, warm=True)
        started = time.perf_counter()
        step()
        issued = time.perf_counter() - started
        self.bench.wait()
        issued /= time.perf_counter() - started
        flop = sizes.timed_batch * sizes.training_flop(model)
        rate = flop / seconds / 1e12
        share = rate / self.matrix[arithmetic] if arithmetic in self.matrix else float("nan")
        text = (
            f"{sizes.timed_batch / seconds:,.4g} images/s, {rate:.4g} TFLOP/s,"
            f" {share:.0%} of the products' rate, {peak:.1f} GiB at batch {sizes.timed_batch};"
            f" the host issues a step in {issued:.0%} of its time"
        )
        values = {
            "images per second": sizes.timed_batch / seconds,
            f"{RATE} {arithmetic}": rate,
            "share of the products' rate": share,
            "peak GiB": peak,
            "issued": issued,
        }
        return Finding(text, values)

    def find_largest_batch(self, model: BackboneConfig) -> Finding:
        """The largest batch that fits, in bf16, and its images per second."""
        self._require("bf16")
        step = TrainingStep(self.bench, model, None, "bf16", 1)

        def fits(size: int) -> bool:
            try:
                step.resize(size)
                for _ in range(2):  # the second one in what the first one left of the memory
                    step()
                self.bench.wait()
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                return False
            finally:
                step.clear()
                self.bench.free()
            return True

        limit = self.bench.sizes.largest_batch
        largest = largest_that_fits(fits, limit)
        if not largest:
            raise NotRun("the card's memory does not suffice for a batch of 1")
        more = " or more" if largest == limit else ""
        step.resize(largest)
        (seconds,) = self.bench.seconds(step, most=2)
        rate = largest / seconds
        flops = rate * self.bench.sizes.training_flop(model) / 1e12
        text = f"{largest}{more} images; {rate:,.4g} images/s, {flops:.4g} TFLOP/s"
        values = {"images": float(largest), "images per second": rate, "tflops": flops}
        return Finding(text, values)

    def find_real_training(self) -> Finding:
        """What a training reports of itself, which reads a store and logs."""
        sizes = self.bench.sizes
        folder = replace(self.bench, directory=self.bench.directory / "measured")
        backbone, model = next(iter(sizes.timed.items()))
        trainings = Trainings(folder, backbone=model)
        steps = 5 * sizes.trained_steps
        trainings.train(STAGE_1, "run", steps)
        record = folder.directory / f"run/checkpoints/{steps}/checkpoint.json"
        reached = read_fields(record, reached=dict)["reached"]
        seconds = steps * sizes.trained_batch / reached["images_per_second"]
        share = reached["data_wait_seconds"] / seconds
        rate = reached["images_per_second"]
        text = (
            f"{backbone}: {rate:,.4g} images/s over {steps} steps with start and save,"
            f" {share:.1%} of the time waiting for data"
        )
        return Finding(text, {"images per second": rate, "waiting": share})

    def find_sampling(self, model: BackboneConfig, precision: Literal["fp32", "bf16"]) -> Finding:
        """Images per second of 250 guided steps, by the passes of a few."""
        self._require(precision)
        sizes, device = self.bench.sizes, self.bench.device
        backbone = fresh_backbone(model, sizes, device).requires_grad_(False).eval()
        backbone.to(DTYPES[precision])
        guidance = {"scale": 1.8, "high": 0.7}
        settings = SamplerConfig.model_validate(
            {
                "sampler": "euler-maruyama",
                "num_steps": sizes.compared_steps,
                "guidance": guidance,
                "precision": precision,
            }
        )
        count = sizes.sampled_batch
        condition = random_condition(sizes, model, count, device)

        def sample() -> None:
            noise = SampleNoise(0, range(count), sizes.latent_shape, device)
            sample_latents(backbone, settings, condition, noise, backbone.null_condition(1))

        peak = self.bench.peak_gib(sample)
        (seconds,) = self.bench.seconds(sample, most=1, warm=True)
        few, many = (
            velocity_passes("euler-maruyama", steps, 1.8, 0.0, 0.7)
            for steps in (sizes.compared_steps, 250)
        )
        passes = count * few / seconds
        rate = passes * sizes.forward_flop(model) / 1e12
        text = (
            f"{passes / many:.4g} images/s of 250 guided steps, {rate:.4g} TFLOP/s,"
            f" {peak:.1f} GiB at {count} images"
        )
        values = {"images per second": passes / many, "tflops": rate, "peak GiB": peak}
        return Finding(text, values)

    def find_decoding(self, precision: Precision) -> Finding:
        """Images per second of a decoder of Stable Diffusion's size."""
        self._require(precision)
        sizes, device = self.bench.sizes, self.bench.device
        decoder = in_precision(random_autoencoder(self.bench, device), precision)
        latents = torch.randn(sizes.sampled_batch, *sizes.latent_shape, device=device)
        return self._images_per_second(partial(decode_in_parts, decoder, latents))

    def find_extraction(self, precision: Precision) -> Finding:
        """Images per second of an encoder of Stable Diffusion's size."""
        self._require(precision)
        sizes, device = self.bench.sizes, self.bench.device
        encoder = random_autoencoder(self.bench, device)
        images = random_images(sizes.sampled_batch, sizes.image_size).to(device)
        parts = images.split(32)

        def encode() -> None:
            for part in parts:
                encode_moments(encoder, part, precision).cpu()

        return self._images_per_second(encode)

    def find_features(self) -> Finding:
        """Images per second of Inception, in fp32."""
        extractor = inception(self.bench, self.bench.device)
        images = random_images(self.bench.sizes.sampled_batch, self.bench.sizes.image_size)

        def see() -> None:
            extractor(images).features.cpu()

        return self._images_per_second(see)

    def _images_per_second(self, work: Callable[[], object]) -> Finding:
        peak = self.bench.peak_gib(work)
        (seconds,) = self.bench.seconds(work, most=3, warm=True)
        rate = self.bench.sizes.sampled_batch / seconds
        values = {"images per second": rate, "peak GiB": peak}
        return Finding(f"{rate:,.4g} images/s, {peak:.1f} GiB", values)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether the GPU's memory did not suffice: torch's own error, or one of CUDA's libraries."""
    said = str(error)
    return (
        isinstance(error, torch.OutOfMemoryError)
        or "ALLOC_FAILED" in said
        or "out of memory" in said.lower()
    )


def largest_that_fits(fits: Callable[[int], bool], limit: int) -> int:
    """The largest size up to ``limit`` that fits, to an eighth of it; 0 where 1 does not.

    Args:
        fits: whether a size fits; a larger one than one that does not is not tried.
        limit: where the search ends.
    """
    below, size = 0, 1
    while size <= limit and fits(size):
        below, size = size, 2 * size
    above = min(size, limit + 1)
    while below and above - below > max(1, below // 8):
        middle = (below + above) // 2
        if fits(middle):
            below = middle
        else:
            above = middle
    return below


def measures(bench: Workbench) -> Iterator[Check]:
    """All of them, the cheapest and most wanted first."""
    every = Measures(bench)
    for arithmetic in RATED:
        find = partial(every.find_matrix_rate, arithmetic)
        yield Check(f"matrix products, {arithmetic}", find)
    for name, model in bench.sizes.timed.items():
        for arithmetic in RATED:
            find = partial(every.find_training, model, arithmetic)
            yield Check(f"training {name}, {arithmetic}", find)
    yield Check("a training's own report", every.find_real_training)
    for name, model in bench.sizes.timed.items():
        yield Check(f"largest batch of {name}, bf16", partial(every.find_largest_batch, model))
    for precision in ("fp32", "bf16"):
        for name, model in bench.sizes.timed.items():
            find = partial(every.find_sampling, model, precision)
            yield Check(f"sampling {name}, {precision}", find)
        yield Check(f"decoding, {precision}", partial(every.find_decoding, precision))
        yield Check(f"extraction, {precision}", partial(every.find_extraction, precision))
    yield Check("Inception features, fp32", every.find_features)
