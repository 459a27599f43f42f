"""Questions about images of prompts, from wherever a run has them; `sources` has the list."""
