"""Scheduling and input/output during training; no mathematics. All intervals are in thousands of images (kimg)."""
