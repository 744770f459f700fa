# bcpg-cluster on GPUs: the [gpu] extra under the bounds of pyproject.toml. Ray head, Ray worker, or the command by itself:
#
#   docker build --file docker/gpu.Dockerfile --tag bcpg-cluster:0.1.0 .
#   docker run --rm --init --gpus all --shm-size 16g --volume bcpg-runs:/home/ray/runs bcpg-cluster:0.1.0 \
#       bcpg-cluster iterate --config one-gpu --rounds 3
#
# Linted and checked by tests/architecture/test_dockerfiles.py; never built by this project. docs/cluster.md says more.
#
# "devel", since DeepSpeed and vLLM's kernels compile with nvcc at the first start. Its CUDA is to be the one PyTorch was built with:
# python -c 'import torch; print(torch.version.cuda)'.
FROM nvidia/cuda:13.0.1-devel-ubuntu24.04

SHELL ["/bin/bash", "-o", "pipefail", "-c"]

# As in cpu.Dockerfile, and Python with the headers that kernels compiled at run time include.
# No versions: Debian and Ubuntu keep only the newest of each, so that a pinned one is gone within weeks.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends \
        bubblewrap g++ libnuma1 libseccomp2 openssh-client procps python3-dev python3-venv rsync util-linux wget \
    && rm -rf /var/lib/apt/lists/*

# The name and number that Ray's own images have; this base has given the number to a user of its own.
RUN userdel --remove ubuntu \
    && useradd --create-home --uid 1000 --shell /bin/bash ray \
    && install --directory --owner ray /home/ray/runs /shared

WORKDIR /opt/bcpg-cluster
COPY . .
# constraints.txt pins the CPU set, so it is not used here; installed.txt keeps what was chosen.
RUN --mount=type=cache,target=/root/.cache/pip python3 -m venv .venv \
    && .venv/bin/pip install --quiet --editable '.[gpu]' \
    && .venv/bin/pip freeze > installed.txt
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
