"""Networks that say how well a picture pleases, or fits its text."""
