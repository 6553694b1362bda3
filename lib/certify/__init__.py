"""Certificates: what is proven about a network's answers within a ball of images, whoever attacks it."""
