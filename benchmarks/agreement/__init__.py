"""Networks with the same weights beside torchvision's, which runs in a Python of its own."""
