"""Stage 5: pictures are questioned by a judge; answers become scores with intervals."""
