"""A second target beside the fake one, which fails when it is told to."""
