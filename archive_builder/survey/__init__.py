"""Input files of a survey: recipe, tables, images and pictures."""
