"""The HTTP service: `diffusion serve INDEX`. Requires the extra `serve`."""
