# syntax=docker/dockerfile:1
# The wheel in an image of its own. Build: docker build -t llm-workbench .
# torch comes built for the CPU; for NVIDIA GPUs: --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130
FROM python:3.11-slim-bookworm AS build
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
WORKDIR /source
COPY pyproject.toml README.md CHANGELOG.md LICENSE ./
COPY workbench workbench
COPY data data
COPY benchmarks/specs benchmarks/specs
COPY .ci/constraints.txt .ci/constraints.txt
RUN python -m venv /opt/workbench \
 && /opt/workbench/bin/pip install --no-cache-dir --upgrade pip \
 && /opt/workbench/bin/pip install --no-cache-dir -c .ci/constraints.txt \
      --extra-index-url "$TORCH_INDEX" '.[tracing]'

FROM python:3.11-slim-bookworm
# libgomp: torch's threads. tini: reaps what ended workers leave behind.
RUN apt-get update \
 && apt-get install -y --no-install-recommends libgomp1 tini \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 10001 --create-home workbench \
 && install -d -o workbench -g workbench -m 700 /data
COPY --from=build /opt/workbench /opt/workbench
ENV PATH=/opt/workbench/bin:$PATH \
    WORKBENCH_HOST=0.0.0.0 \
    WORKBENCH_DB=/data/workbench.duckdb \
    WORKBENCH_BENCHMARKS=/data/benchmarks \
    HF_MODEL_PATH=/data/models/huggingface \
    HF_HOME=/data/cache/huggingface
USER workbench
WORKDIR /home/workbench
VOLUME /data
EXPOSE 7860
# The one address that needs no key.
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=3 \
  CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(f'http://127.0.0.1:{os.environ.get(\"WORKBENCH_PORT\", \"7860\")}/health/live', timeout=4)"]
# It listens beyond loopback here, so it refuses to start without WORKBENCH_API_KEY.
ENTRYPOINT ["tini", "-s", "--", "workbench"]
CMD ["serve"]
