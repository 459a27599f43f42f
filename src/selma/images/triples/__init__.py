"""Narrative prompt, keyword prompt and picture (SURD, arXiv:2305.05189): collected, read."""
