"""Stage 2: a model draws prompts. `drawing` makes pictures, `pairs` reads them back."""
