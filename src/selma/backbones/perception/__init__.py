"""Networks that see what is in an image, or how alike images are."""
