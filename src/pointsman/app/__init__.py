"""Composition root: configuration → wired objects → run until stopped."""
