"""The page of results before and after diffusion, as one file or as that of the service.

A page is one HTML file that loads nothing from elsewhere: its style, its script and what it shows
are in it. `answers` computes in advance what the page in a file shows, and `write` writes it; the
service calls `render` and answers while the page is open. `shared_style` is the style that all
pages of this project have in common.
"""

from .answers import Answers, answers
from .rendering import render, shared_style, write

__all__ = ["Answers", "answers", "render", "shared_style", "write"]
