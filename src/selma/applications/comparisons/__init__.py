"""Comparisons of recipes: rows that share prompts, images and experts, as in the paper's tables."""
