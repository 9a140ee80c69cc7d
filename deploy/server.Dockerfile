# syntax=docker/dockerfile:1
# The server's processes: train worker and denoise worker; with EXTRAS=operator the operator's commands and the exporter, without torch.
#
# torch comes as the CPU build; for NVIDIA GPUs build with --build-arg TORCH_INDEX=https://pypi.org/simple

FROM python:3.11.11-slim-bookworm AS build
ARG EXTRAS=server
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
# pip works from here into the environment, which has none of its own: nothing is installed in a container afterwards.
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
# The operator's image has no torch, and asks no index of torch's: every package would be looked for there as well.
RUN if [ "${EXTRAS}" != operator ]; then export PIP_EXTRA_INDEX_URL="${TORCH_INDEX}"; fi \
    && pip install --only-binary=:all: --constraint constraints.txt ".[${EXTRAS}]" \
    && cd /opt/collafuse/lib/python3.*/site-packages && rm -rf torch/test numpy/tests numpy/*/tests

FROM python:3.11.11-slim-bookworm
RUN useradd --uid 10001 --user-group --home-dir /nonexistent --no-create-home collafuse \
    && install -d -o collafuse -g collafuse -m 0750 \
        /var/lib/collafuse /var/lib/collafuse/server /var/lib/collafuse/credentials
COPY --from=build /opt/collafuse /opt/collafuse
ENV PATH=/opt/collafuse/bin:$PATH HOME=/tmp PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /var/lib/collafuse
ENTRYPOINT ["collafuse"]
