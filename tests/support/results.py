"""The content of a metrics file."""

from typing import Any


def result(
    run: str = "sit", step: int = 10, seed: int = 0, fid: float = 9.5, **samples: Any
) -> dict[str, Any]:
    """A metrics file's content."""
    description = {
        "checkpoint": {"run": run, "seed": seed, "step": step, "digest": "c" * 64},
        "sampler": "euler", "num_steps": 50, "weights": "ema", "seed": 0, "labels": "random",
        "guidance": {"scale": 1.0, "low": 0.0, "high": 1.0}, "precision": "tf32",
        "decoder": "stabilityai/sd-vae-ft-ema", "autoencoder_digest": "a" * 64,
        "decoder_precision": "fp32", "uint8": "truncate",
        "versions": {"torch": "2.14.1", "diffusers": "0.40"}, **samples,
    }  # fmt: skip
    return {
        "samples": description, "num_samples": 50_000, "num_reference": 50_000,
        "extractor": {"name": "inception", "digest": "e" * 64}, "distances": "adm",
        "reference": {"name": "VIRTUAL_imagenet256_labeled.npz", "digest": "r" * 64},
        "versions": {"torch": "2.14.1", "scipy": "1.17"}, "metrics": {"fid": fid, "precision": 0.7},
    }  # fmt: skip
