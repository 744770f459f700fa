"""What pyproject.toml cannot say: where the packages are, and that ``configs/`` is installed inside ``bcpg_cluster``."""

from setuptools import find_namespace_packages, find_packages, setup

setup(
    packages=[
        *find_namespace_packages(include=["bcpg_cluster", "bcpg_cluster.*"]),
        "bcpg_cluster.configs",
        *find_packages("cli"),
    ],
    package_dir={"bcpg_cluster.configs": "configs", "bcpg_cluster_cli": "cli/bcpg_cluster_cli"},
)
