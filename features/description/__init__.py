"""From images to descriptors: recipe, whitening, extraction of a folder."""
