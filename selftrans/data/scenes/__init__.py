"""The drawn world: pictures whose captions are true by construction, as a function of an index."""
