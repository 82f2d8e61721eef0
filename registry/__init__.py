"""Released artifacts: published whole, pulled byte for byte, verified on both sides. Needs no torch."""
