"""Networks that see what is in a picture, or how alike pictures are."""
