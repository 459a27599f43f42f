"""Stage 1: a language model writes prompts for each skill (arXiv:2403.06952, section 3.1)."""
