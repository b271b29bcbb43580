"""Images and latents -> the real images beside samples in figures, and reconstructions."""

from functools import partial
from pathlib import Path

from selftrans.config import SamplerConfig
from selftrans.data.caption_store import CaptionStore
from selftrans.data.sources import open_extracted
from selftrans.data.store import LatentStore
from selftrans.models.autoencoder import load_autoencoder
from selftrans.runtime.devices import claim_device
from selftrans.runtime.logs import logged_to
from selftrans.sampling.examples import examples_needed, make_caption_examples, make_examples

with logged_to(snakemake.log[0]):
    params = snakemake.params
    device, data = claim_device(0), Path(snakemake.input.data)
    decoder = load_autoencoder(params.decoder, device)
    if snakemake.input.prompts:
        (prompts,) = map(CaptionStore, snakemake.input.prompts)
        autoencoder = load_autoencoder(params.autoencoder, device)
        images, columns = open_extracted(data), params.columns
        examples = make_caption_examples(prompts, images, autoencoder, decoder, columns, device)
    else:
        store = LatentStore(snakemake.input.latents)
        samplers = [
            SamplerConfig(sampler="euler", labels=labels, seed=seed)
            for labels, seed in params.labels
        ]
        examples = make_examples(
            store,
            partial(open_extracted, data),
            decoder,
            examples_needed(samplers, params.columns, store.manifest.num_classes),
            device,
        )
    examples.save(Path(snakemake.output[0]))
