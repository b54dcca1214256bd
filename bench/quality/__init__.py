"""Quality of rankings: diffusion beside plain search, query expansion and published rivals."""

from ..data.published import CLASSIC, REVISITED

# The data sets on which `--descriptors` are measured.
DATASETS = (*CLASSIC, *REVISITED, "grocery")
