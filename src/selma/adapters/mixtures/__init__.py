"""Mixtures of experts: several LoRAs at once, of which gates choose anew for each input."""
