"""Cutouts as batches for training."""
