"""Static description, of the wrong kind."""

INFO = {"id": "wrong-info"}
