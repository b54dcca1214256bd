"""HTML pages: the template environment, and the skeleton and style that all pages share."""
