"""The page of results before and after diffusion, as one file or as that of the service."""
