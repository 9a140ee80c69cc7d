# syntax=docker/dockerfile:1
# The edge agent: onnxruntime and no torch. docs/edge.md says how it is built for both kinds of machine and run.

FROM python:3.11.11-slim-bookworm AS build
# pip works from here into the environment, which has none of its own: nothing is installed on a device afterwards.
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_PYTHON=/opt/collafuse/bin/python
RUN python -m venv --without-pip /opt/collafuse
WORKDIR /src
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY broker broker
COPY server_worker server_worker
COPY edge_agent edge_agent
COPY export export
COPY monitoring monitoring
COPY diffusion diffusion
COPY evaluation evaluation
COPY collafuse collafuse
# Wheels alone: every pinned version has them for amd64 and arm64, and one that had none would fail here and not be compiled.
RUN pip install --only-binary=:all: --constraint constraints.txt ".[edge]" \
    && ! /opt/collafuse/bin/python -c "import torch" 2>/dev/null \
    && rm -rf /opt/collafuse/lib/python3.*/site-packages/numpy/tests /opt/collafuse/lib/python3.*/site-packages/numpy/*/tests

FROM python:3.11.11-slim-bookworm
RUN useradd --uid 10001 --user-group --home-dir /nonexistent --no-create-home collafuse \
    && install -d -o collafuse -g collafuse -m 0750 \
        /var/lib/collafuse /var/lib/collafuse/edge /var/lib/collafuse/credentials
COPY --from=build /opt/collafuse /opt/collafuse
ENV PATH=/opt/collafuse/bin:$PATH HOME=/tmp PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
    COLLAFUSE_EDGE_STATE=/var/lib/collafuse/edge
USER 10001:10001
WORKDIR /var/lib/collafuse
ENTRYPOINT ["collafuse"]
