# bcpg-cluster on CPUs: the pinned set of constraints.txt. Ray head, Ray worker, or the command by itself:
#
#   docker build --file docker/cpu.Dockerfile --tag bcpg-cluster:0.1.0-cpu .
#   docker run --rm --init --shm-size 2g --volume bcpg-runs:/home/ray/runs bcpg-cluster:0.1.0-cpu \
#       bcpg-cluster iterate --rounds 3
#
# Linted and checked by tests/architecture/test_dockerfiles.py; never built by this project. docs/cluster.md says more.
FROM python:3.11.14-slim-bookworm

SHELL ["/bin/bash", "-o", "pipefail", "-c"]

# g++: DeepSpeed compiles its CPU communication at the first start. libnuma1: vLLM. bubblewrap, libseccomp2, util-linux: the
# sandbox of `verify.kind: code`. openssh-client, rsync: `ray up` and `ray rsync`. procps, wget: Ray's own looks at its processes.
# No versions: Debian and Ubuntu keep only the newest of each, so that a pinned one is gone within weeks.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends \
        bubblewrap g++ libnuma1 libseccomp2 openssh-client procps rsync util-linux wget \
    && rm -rf /var/lib/apt/lists/*

# The name and number that Ray's own images have, so that volumes and manifests made for those fit.
RUN useradd --create-home --uid 1000 --shell /bin/bash ray \
    && install --directory --owner ray /home/ray/runs /shared

WORKDIR /opt/bcpg-cluster
COPY . .
RUN --mount=type=cache,target=/root/.cache/pip scripts/setup.sh run
ENV PATH=/opt/bcpg-cluster/.venv/bin:$PATH

# As on every node of cluster.yaml: workers at full priority, and a node that answers no health check for some 20 s is lost.
ENV RAY_worker_niceness=0 \
    RAY_health_check_period_ms=3000 \
    RAY_health_check_timeout_ms=5000 \
    RAY_health_check_failure_threshold=4

USER 1000
WORKDIR /home/ray
# Ray's GCS, object manager, dashboard and jobs
EXPOSE 6379 8076 8265
CMD ["bcpg-cluster", "--help"]
