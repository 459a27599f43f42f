"""What angles carry and what magnitudes: the toy experiment of OFT (arXiv:2306.07280, figure 2)."""
