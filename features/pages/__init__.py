"""HTML pages: their environment, the skeleton and the style that they share."""
