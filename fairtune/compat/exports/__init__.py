"""Tables of results in the shape of other tools."""
