"""Networks beside torchvision's with the same weights; torchvision runs in a Python of its own."""
