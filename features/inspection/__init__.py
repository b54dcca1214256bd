"""What the units of a network respond to: strongest photos, receptive fields, occlusion maps.

A unit is one cell of the map of a channel. The whole map of a channel is computed with the same
weights, so that a channel is described by the photos, and the places in them, at which it is
largest.
"""
