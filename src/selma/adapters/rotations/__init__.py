"""OFT and COFT (arXiv:2306.07280): rotations of neurons, how they are trained, and their files."""
