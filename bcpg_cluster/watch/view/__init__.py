"""The run page: what a run shows of itself, as records, and the page that draws them."""
