"""Figures are closed after each test."""

from tests.kit.figures import close_figures  # noqa: F401
