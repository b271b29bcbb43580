"""Evaluation: Fréchet distance, precision and recall, memory of statistics, Inception."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import scipy.linalg
import torch
from numpy.typing import NDArray
from pytorch_fid.fid_score import calculate_frechet_distance
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.metric_fid import fid_statistics_to_metric

from benchmarks.timing import REPETITIONS, Result, faster, interleaved
from selftrans.evaluation.inception import InceptionExtractor, inception_network
from selftrans.evaluation.metrics import frechet_distance

WIDTH, IMAGES = 2048, 10_000
SAMPLES, REFERENCE = 6000, 3000


def feature_like(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Correlated, non-negative numbers with a falling spectrum, as pool_3 has."""
    mixing = rng.standard_normal((WIDTH, WIDTH)) * (1 / (1 + np.arange(WIDTH)))[:, None] ** 0.7
    return np.maximum(rng.standard_normal((count, WIDTH)) @ mixing * 0.1 + 0.3, 0)


def frechet() -> Iterator[Result]:
    """Ours against scipy.linalg.sqrtm on the same moments, and two evaluators that use it."""
    rng = np.random.default_rng(0)
    x, y = feature_like(rng, IMAGES), feature_like(rng, IMAGES)
    mean1, mean2, cov1, cov2 = x.mean(0), y.mean(0), np.cov(x.T), np.cov(y.T)
    given = mean1, cov1, mean2, cov2

    def by_sqrtm() -> float:
        difference = mean1 - mean2
        return float(
            difference @ difference
            + np.trace(cov1 + cov2 - 2 * scipy.linalg.sqrtm(cov1 @ cov2).real)
        )

    ours, expected = frechet_distance(*given), by_sqrtm()
    note = f"d = {WIDTH}; relative difference {abs(ours - expected) / expected:.1e}"
    yield faster(
        "frechet_distance",
        lambda: frechet_distance(*given),
        by_sqrtm,
        f"against scipy.linalg.sqrtm, {note}",
    )
    yield faster(
        "frechet_distance_pytorch_fid", lambda: frechet_distance(*given),
        lambda: calculate_frechet_distance(*given), "against pytorch-fid, median of 3", 3,
    )  # fmt: skip
    statistics = {"mu": mean1, "sigma": cov1}, {"mu": mean2, "sigma": cov2}
    yield faster(
        "frechet_distance_torch_fidelity", lambda: frechet_distance(*given),
        lambda: fid_statistics_to_metric(*statistics, verbose=False),
        "against torch-fidelity, median of 3", 3,
    )  # fmt: skip


FULL_MATRIX = """
import sys, time
from pathlib import Path
import numpy as np, torch
from selftrans.evaluation.manifold import precision_recall

def memory(kind):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if kind in line)

torch.set_num_threads(1)
samples, reference = (torch.from_numpy(np.load(name)) for name in sys.argv[2:4])
Path("/proc/self/clear_refs").write_text("5")  # forgets the peak of the imports
before, started = memory("VmRSS"), time.perf_counter()
if sys.argv[1] == "ours":
    result = precision_recall(samples.numpy(), reference.numpy())
else:
    def radii(x):
        return torch.cdist(x, x).square().kthvalue(4, dim=1).values
    between = torch.cdist(samples, reference).square()
    result = (
        float((between <= radii(reference)[None]).any(1).double().mean()),
        float((between <= radii(samples)[:, None]).any(0).double().mean()),
    )
seconds = time.perf_counter() - started
print(seconds, (memory("VmHWM") - before) / 1024, *result)
"""


def manifold() -> Iterator[Result]:
    """Blocks of distances against full matrices.

    Each runs in its own process, since peak memory never falls.
    """
    rng = np.random.default_rng(0)
    with TemporaryDirectory() as name:
        files = [str(Path(name) / f"{side}.npy") for side in ("samples", "reference")]
        for file, count in zip(files, (SAMPLES, REFERENCE), strict=True):
            np.save(file, rng.standard_normal((count, WIDTH)).astype(np.float32))
        found = {}
        for way in ("ours", "full"):
            command = [sys.executable, "-c", FULL_MATRIX, way, *files]
            runs = [
                subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
                for _ in range(REPETITIONS)
            ]
            found[way] = sorted([float(word) for word in run] for run in runs)[REPETITIONS // 2]
    note = f"{SAMPLES} samples, {REFERENCE} reference images, d = {WIDTH}; baseline: full matrices"
    assert np.allclose(found["ours"][2:], found["full"][2:], atol=1e-3)
    for place, what, unit in ((0, "time", "s"), (1, "memory", "MB")):
        own, other = found["ours"][place], found["full"][place]
        yield Result(
            name=f"precision_recall_{what}",
            ours=own,
            baseline=other,
            ratio=other / own,
            unit=unit,
            note=note,
        )


STREAM = """
import sys
from pathlib import Path
import numpy as np, torch
from selftrans.evaluation.activations import Activations
from selftrans.evaluation.compute_statistics import compute_statistics, finish

class Numbers:
    name, digest = "inception", "random"
    def __call__(self, images):
        rng = np.random.default_rng(int(images[0, 0, 0, 0]))
        draw = lambda width: torch.from_numpy(
            rng.standard_normal((len(images), width), dtype=np.float32)
        )
        return Activations(features=draw(2048), spatial=draw(2023), logits=draw(1008))

class Images:
    def __len__(self):
        return int(sys.argv[1])
    def batches(self, span, size):
        for start in range(span.start, span.stop, size):
            yield np.full((min(size, span.stop - start), 8, 8, 3), start % 251, np.uint8)

torch.set_num_threads(1)
place = Path(sys.argv[2])
finish(
    compute_statistics(Images(), Numbers(), place / "features.npy", 64), Path("images")
).save(place / "statistics.npz")
lines = Path("/proc/self/status").read_text().splitlines()
peak = next(line for line in lines if line.startswith("VmHWM"))
print(float(peak.split()[1]) / 1024)
"""


def statistics_memory() -> Iterator[Result]:
    """Peak memory of FID, sFID and IS statistics of 20,000 images over that of 2,000.

    Features go to a file.
    """
    peaks = []
    for count in (20_000, 2000):
        with TemporaryDirectory() as name:
            command = [sys.executable, "-c", STREAM, str(count), name]
            ended = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks.append(float(ended.stdout))
    yield Result(
        name="statistics_memory", ours=peaks[0], baseline=peaks[1], ratio=peaks[0] / peaks[1],
        unit="MB", note="peak with 20,000 images; baseline: with 2,000",
    )  # fmt: skip


def inception_features() -> Iterator[Result]:
    """Images per second against torch-fidelity's extractor with the same random weights.

    Also the relative difference of their features.
    """
    network = inception_network()
    state = network.state_dict()
    generator = torch.Generator().manual_seed(0)
    for tensor in state.values():
        if tensor.ndim > 1:
            tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5, generator=generator)
    images = torch.randint(0, 256, (8, 256, 256, 3), dtype=torch.uint8, generator=generator)
    ours = InceptionExtractor(network, "random", torch.device("cpu"))
    with TemporaryDirectory() as name:
        torch.save(state, Path(name) / "weights.pth")
        other = FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048", "logits_unbiased"], str(Path(name) / "weights.pth")
        )
    channels_first = images.permute(0, 3, 1, 2).contiguous()
    with torch.inference_mode():
        own, their = interleaved(lambda: ours(images), lambda: other(channels_first))
        difference = (ours(images).features - other(channels_first)[0]).norm() / ours(
            images
        ).features.norm()
    count = len(images)
    yield Result(
        name="inception_features", ours=count / own, baseline=count / their, ratio=their / own,
        unit="images/s", sides=(own, their),
        note="against torch-fidelity, 256 pixels, sFID's features included; "
        f"relative difference {difference:.1e}",
    )  # fmt: skip
