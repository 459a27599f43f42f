"""Stage 2: a model generates an image for each prompt. `generating` makes, `pairs` reads them."""
