"""The networks: the SiT backbone, the training-only heads, the autoencoder."""
