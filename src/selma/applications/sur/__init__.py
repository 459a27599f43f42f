"""The SUR-adapter (arXiv:2305.05189): plain prompts read with a language model."""
