"""Inference libraries, one file each."""
