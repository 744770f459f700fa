"""What a run shows to Prometheus and Grafana: the table of metrics, who fills it, and how both programs are started."""
