"""Campaigns that try to break the library: kills, full disks, damaged files, random calls.

`make faults` runs all of them within a budget of time, and `make test-all` a few cases of each.
What is found becomes a small case of the ordinary tests.
"""
