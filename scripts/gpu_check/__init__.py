"""What a GPU shows and a CPU does not, as checks of their own processes: `scripts/gpu_check.sh`, and `pytest -m gpu`."""
