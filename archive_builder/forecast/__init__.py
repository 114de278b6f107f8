"""Forecast of an archive before its build."""
