"""Image files: reading, decoding, batches."""

from importlib.util import find_spec

from diffusion.errors import DiffusionError

if find_spec("PIL") is None:
    raise DiffusionError(
        "images: reading image files needs Pillow (pip install 'diffusion-rerank[features]')"
    )
