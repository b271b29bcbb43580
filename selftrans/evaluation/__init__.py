"""From images to metrics: extractors, streaming statistics, metrics."""
