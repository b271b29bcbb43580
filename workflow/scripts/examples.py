"""Images and latents -> real images of the classes in figures of samples, and reconstructions."""

from functools import partial
from pathlib import Path

from selftrans.config import SamplerConfig
from selftrans.data.sources import open_extracted
from selftrans.data.store import LatentStore
from selftrans.models.autoencoder import load_autoencoder
from selftrans.runtime.devices import claim_device
from selftrans.runtime.logs import logged_to
from selftrans.sampling.examples import examples_needed, make_examples

with logged_to(snakemake.log[0]):
    params = snakemake.params
    store = LatentStore(snakemake.input.latents)
    samplers = [
        SamplerConfig(sampler="euler", labels=labels, seed=seed) for labels, seed in params.labels
    ]
    device = claim_device(0)
    examples = make_examples(
        store,
        partial(open_extracted, Path(snakemake.input.data)),
        load_autoencoder(params.decoder, device),
        examples_needed(samplers, params.columns, store.manifest.num_classes),
        device,
    )
    examples.save(Path(snakemake.output[0]))
