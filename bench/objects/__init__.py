"""Object discovery on made scenes."""
