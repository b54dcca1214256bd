"""Training of descriptors: losses, mining, samples, trainer."""
