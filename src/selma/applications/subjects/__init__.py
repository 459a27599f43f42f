"""Subject-driven generation: DreamBooth (arXiv:2208.12242) with LoRA, OFT, COFT or all weights."""
