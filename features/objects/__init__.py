"""Object discovery: saliency maps, regions, localisation, pages of pictures."""
