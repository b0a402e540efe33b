"""The fake target as an installed distribution."""
