"""Speed and memory of the engine, as ratios to what one would otherwise use."""
