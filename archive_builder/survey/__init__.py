"""What the survey gives us: its recipe, tiles, images and catalogues."""
