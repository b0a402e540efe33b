"""Never imported, for its description fails."""
