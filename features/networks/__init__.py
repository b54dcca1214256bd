"""Networks: backbones, pooling, checkpoints."""
