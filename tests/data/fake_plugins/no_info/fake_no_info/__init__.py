"""Has no description."""
