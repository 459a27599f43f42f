"""The SUR-adapter (arXiv:2305.05189): a network between the text encoders and the denoiser."""
