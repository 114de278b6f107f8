"""The survey's files: recipe, tiles, images, catalogues."""
