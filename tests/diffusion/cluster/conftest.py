from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def _unsynced(monkeypatch):
    """Thousands of small files need not be durable here."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
