"""Many shots on many machines, through Dask: `python -m engine farm`. Its packages (engine/requirements-farm.txt) load only when it runs."""
