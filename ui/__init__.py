"""The app's page; it knows the public names of streamline and nothing of its insides."""

from .page import build
from .style import CSS, THEME

__all__ = ["CSS", "THEME", "build"]
