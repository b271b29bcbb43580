"""Probed images through an encoder -> how much of the class probes read off its mean tokens."""

from pathlib import Path

import numpy as np
import torch

from selftrans.data.sources import open_extracted
from selftrans.evaluation.probes import ProbeCase, probe_rows
from selftrans.evaluation.run_features import RunFeatures
from selftrans.models.encoder import load_encoder
from selftrans.runtime.devices import claim_device
from selftrans.runtime.files import write_text
from selftrans.runtime.logs import logged_to

with logged_to(snakemake.log[0]):
    source = open_extracted(Path(snakemake.input.data))
    encoder = load_encoder(
        Path(snakemake.input.encoder), claim_device(min(snakemake.resources.gpu, 1))
    )
    features = RunFeatures.load(Path(snakemake.input.features))
    images = features.images
    size = snakemake.resources.batch_size
    batches = (source.read(images[start : start + size]) for start in range(0, len(images), size))
    means = [encoder(torch.from_numpy(batch)).mean(dim=1).cpu().numpy() for batch in batches]
    case = ProbeCase("encoder", encoder.name, 0, 0.0, False, np.concatenate(means))
    table = probe_rows([case], features.labels, features.held_out, snakemake.params.neighbours)
    write_text(Path(snakemake.output[0]), table.to_csv(index=False))
