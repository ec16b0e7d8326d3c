# An image without CUDA. pip's default index gives the CUDA build of torch on Linux, so the index of the CPU build has
# to be named; PyTorch's own install page says it:
#   docker build --build-arg TORCH_INDEX=<index of the CPU build> .
# For a GPU, with pip's default index or the index of another CUDA build:
#   docker build --build-arg TORCH=cuda [--build-arg TORCH_INDEX=<index>] .
FROM python:3.11-slim AS build
ARG TORCH=cpu
ARG TORCH_INDEX=
WORKDIR /src
RUN python -m venv /opt/entropick
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY kernels kernels
COPY sampler sampler
COPY server server
COPY pico pico
COPY evaluation evaluation
COPY lens lens
# torch alone comes from TORCH_INDEX (such an index need not have the pinned versions of other packages)
RUN set -eu; \
    case "$TORCH:$TORCH_INDEX" in \
      cpu:) echo "name the index of torch's CPU build: --build-arg TORCH_INDEX=..., or ask for CUDA: --build-arg TORCH=cuda" >&2; exit 1 ;; \
      cpu:*|cuda:*) ;; \
      *) echo "TORCH is cpu or cuda, not $TORCH" >&2; exit 1 ;; \
    esac; \
    if [ -n "$TORCH_INDEX" ]; then \
      /opt/entropick/bin/pip install --no-cache-dir --no-deps --index-url "$TORCH_INDEX" -c constraints.txt torch; \
    fi; \
    /opt/entropick/bin/pip install --no-cache-dir -c constraints.txt .; \
    built=$(/opt/entropick/bin/python -c 'import torch; print("cuda" if torch.version.cuda else "cpu")'); \
    if [ "$built" != "$TORCH" ]; then echo "this is torch's $built build, not $TORCH: another TORCH_INDEX?" >&2; exit 1; fi

FROM python:3.11-slim
RUN useradd --create-home --uid 10001 entropick
COPY --from=build /opt/entropick /opt/entropick
ENV PATH=/opt/entropick/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    OMP_WAIT_POLICY=PASSIVE \
    NUMBA_CACHE_DIR=/home/entropick/.cache/numba \
    ENTROPICK_HOST=0.0.0.0 \
    ENTROPICK_PORT=8000
USER entropick
WORKDIR /home/entropick
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=120s --retries=3 \
  CMD ["python", "-c", "import os, urllib.request as u; u.urlopen('http://127.0.0.1:' + os.environ['ENTROPICK_PORT'] + '/health', timeout=2)"]
ENTRYPOINT ["entropick"]
CMD ["serve"]
