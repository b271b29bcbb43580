"""What trains beside denoising: one file per method, one small interface, one registry."""
