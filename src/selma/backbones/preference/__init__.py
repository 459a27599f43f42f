"""Networks that say how well an image pleases, or fits its text."""
