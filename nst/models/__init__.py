"""EfficientNets and their noise."""
