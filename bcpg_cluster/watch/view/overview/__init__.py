"""The first page of a run: what its manifest alone says, without opening a table."""
