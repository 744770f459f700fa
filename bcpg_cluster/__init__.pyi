from bcpg_cluster.run.entry import RunResult as RunResult
from bcpg_cluster.run.entry import load_config as load_config
from bcpg_cluster.run.entry import run_rounds as run

__all__ = ["RunResult", "__version__", "load_config", "run"]

__version__: str
