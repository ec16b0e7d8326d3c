# CPU image. For a GPU, build with --build-arg TORCH_INDEX=<the index of the CUDA build you want>.
FROM python:3.11-slim AS build
ARG TORCH_INDEX=
WORKDIR /src
RUN python -m venv /opt/entropick
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY kernels kernels
COPY sampler sampler
COPY server server
COPY pico pico
RUN /opt/entropick/bin/pip install --no-cache-dir ${TORCH_INDEX:+--index-url $TORCH_INDEX} -c constraints.txt torch \
 && /opt/entropick/bin/pip install --no-cache-dir -c constraints.txt .

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
