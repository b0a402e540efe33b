"""Brings a rewrite and nothing else."""
