"""What is worked out from pixels: arrays in, arrays out."""
