"""Measurements on pixels: arrays in, arrays out."""
