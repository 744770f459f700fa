"""Tables of Parquet shards, and the manifest that says which of them count."""
