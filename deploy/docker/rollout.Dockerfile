# Machines of the rollout pool: the worker in one environment, SGLang in another.
#
#   docker build -f deploy/docker/rollout.Dockerfile -t vision-opd-rollout .
#
# SGLang compiles kernels when it runs and needs CUDA's compiler of its torch's version for that.
# --build-arg FLAVOUR=cpu --build-arg BASE=ubuntu:24.04 builds without CUDA.
ARG BASE=nvidia/cuda:13.0.2-devel-ubuntu24.04
FROM ${BASE}

RUN apt-get update \
  && apt-get install -y --no-install-recommends \
    ca-certificates gcc g++ libnuma1 python3-dev python3-venv \
  && rm -rf /var/lib/apt/lists/*

# A build sees no GPU: the flavour must be named. Both stay set, so that a pod's own call of
# deploy/setup.sh finds its environments complete.
ARG FLAVOUR=gpu
ENV FLAVOUR=${FLAVOUR} EXTRAS=kuberay PIP_CACHE_DIR=/var/cache/pip
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility

WORKDIR /opt/vision-opd
# SGLang first: many GB that stay the same while our code changes.
COPY deploy/setup.sh deploy/constraints-cpu.txt deploy/constraints-gpu.txt \
  deploy/requirements-sglang-cpu.txt deploy/requirements-sglang-gpu.txt deploy/
COPY rollout/sglang/cpu rollout/sglang/cpu
RUN --mount=type=cache,target=/var/cache/pip deploy/setup.sh sglang

COPY pyproject.toml README.md LICENSE ./
COPY common common
COPY broker broker
COPY rollout rollout
COPY learner learner
COPY deploy deploy
RUN --mount=type=cache,target=/var/cache/pip deploy/setup.sh rollout
RUN ln -s /opt/vision-opd/.venv/bin/ray /usr/local/bin/ray \
  && if ! getent passwd 1000; then useradd --uid 1000 --create-home opd; fi

USER 1000:1000
CMD [".venv/bin/python", "-m", "rollout.main", "--help"]
