"""Image files: reading, decoding, batches."""

from diffusion.errors import DiffusionError

try:
    import PIL  # noqa: F401
except ImportError:
    raise DiffusionError(
        "images: reading image files needs Pillow (pip install 'diffusion-rerank[features]')"
    ) from None
