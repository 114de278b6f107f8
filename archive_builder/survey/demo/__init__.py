"""A synthetic sky survey: tiles, catalogues and a recipe in the file layout of the Dark Energy Survey."""

from archive_builder.survey.demo.survey import make_survey

__all__ = ["make_survey"]
