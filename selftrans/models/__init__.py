"""The networks: SiT backbone, training-only heads, autoencoder, encoders, classifier."""
