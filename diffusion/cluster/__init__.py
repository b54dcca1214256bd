"""The offline stage over shards, by tasks that run on threads, processes or a Dask cluster."""
