# Machines of the learner pool, and the head of a KubeRay cluster: broker and launcher.
#
#   docker build -f deploy/docker/learner.Dockerfile -t vision-opd-learner .
#
# Python must be the same in this image and in that of rollout machines: Ray checks it. torch brings
# its own CUDA; only the driver comes from the machine. --build-arg FLAVOUR=cpu builds without CUDA.
ARG BASE=ubuntu:24.04
FROM ${BASE}

# torch compiles small kernels when it runs, for which it needs a compiler and Python's headers.
RUN apt-get update \
  && apt-get install -y --no-install-recommends ca-certificates gcc g++ python3-dev python3-venv \
  && rm -rf /var/lib/apt/lists/*

# A build sees no GPU: the flavour must be named. Both stay set, so that a pod's own call of
# deploy/setup.sh finds its environment complete.
ARG FLAVOUR=gpu
ENV FLAVOUR=${FLAVOUR} EXTRAS=kuberay PIP_CACHE_DIR=/var/cache/pip
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility

WORKDIR /opt/vision-opd
COPY pyproject.toml README.md LICENSE ./
COPY common common
COPY broker broker
COPY rollout rollout
COPY learner learner
COPY deploy deploy
RUN --mount=type=cache,target=/var/cache/pip deploy/setup.sh learner
RUN ln -s /opt/vision-opd/.venv/bin/ray /usr/local/bin/ray \
  && if ! getent passwd 1000; then useradd --uid 1000 --create-home opd; fi

USER 1000:1000
CMD [".venv/bin/python", "-m", "deploy.launch", "--help"]
