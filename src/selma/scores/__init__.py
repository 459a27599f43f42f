"""Stage 5: images are questioned by a judge; answers become scores with intervals."""
