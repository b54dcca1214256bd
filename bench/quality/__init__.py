"""How good the rankings are."""
