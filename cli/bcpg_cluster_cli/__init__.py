"""The command line of bcpg-cluster, installed as ``bcpg_cluster_cli``."""
