"""A trained backbone as a pipeline of diffusers. Importing it imports diffusers."""

from selftrans.pipeline.sit_pipeline import SiTPipeline
from selftrans.pipeline.transformer import SiTTransformer

__all__ = ["SiTPipeline", "SiTTransformer"]
