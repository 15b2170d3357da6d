"""Templates, style and script of the page, as they are sent."""
