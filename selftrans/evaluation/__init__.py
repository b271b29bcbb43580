"""From images to numbers: extractors, streaming statistics, metrics."""
