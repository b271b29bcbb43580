"""Trainings of the small networks that an experiment needs beside its backbones."""
