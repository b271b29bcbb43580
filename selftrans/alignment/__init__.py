"""Training signals: one file each, one small interface, one registry."""
