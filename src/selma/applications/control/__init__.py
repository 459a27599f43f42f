"""Controllable generation of OFT (arXiv:2306.07280): images led by a condition."""
