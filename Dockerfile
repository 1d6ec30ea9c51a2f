# Two targets on the same slim Python: `cpu`, the default, which runs ONNX graphs without torch, and `gpu` with PyTorch.
#   docker build -t hne-serve .
#   docker build -t hne-serve:gpu --target gpu .

# The dependencies alone, in a virtual environment of their own: the slow layer, rebuilt only when pyproject.toml changes.
FROM python:3.11-slim AS dependencies
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
RUN python -m venv /opt/hne
COPY pyproject.toml .
RUN --mount=type=cache,target=/root/.cache/pip \
    python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"], sep="\n")' > base.txt \
    && /opt/hne/bin/pip install -r base.txt

# ONNX Runtime's CUDA and TensorRT providers, 280 MB, are dead weight where HNE_RUNNER is cpu.
FROM dependencies AS dependencies-cpu
RUN find /opt/hne -name 'libonnxruntime_providers_cuda.so' -delete -o -name 'libonnxruntime_providers_tensorrt.so' -delete

# CUDA's and cuDNN's libraries come as wheels; the driver is the host's.
FROM dependencies AS dependencies-gpu
RUN --mount=type=cache,target=/root/.cache/pip \
    python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["gpu"], sep="\n")' > gpu.txt \
    && /opt/hne/bin/pip install -r base.txt -r gpu.txt

FROM dependencies AS wheel
COPY . .
RUN --mount=type=cache,target=/root/.cache/pip pip wheel --no-deps --wheel-dir /wheels .

FROM python:3.11-slim AS runtime
RUN useradd --system --uid 10001 --no-create-home hne
ENV PATH=/opt/hne/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HNE_HOST=0.0.0.0 \
    HNE_PORT=8000 \
    HNE_MODEL=/model
# One package, readable whatever the modes of the checkout; mount another over it to serve that.
ARG MODEL=hne-small-cifar10
COPY --chmod=555 deploy/models/${MODEL}/ /model/
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ['HNE_PORT'] + '/readyz', timeout=2)"]
CMD ["hne-serve"]

FROM runtime AS gpu
# Not auto: without a usable GPU this image says so and ends, instead of computing on the CPU. HTTP and decoding have
# processes of their own, so that they do not keep the device waiting, and batches are as large as a GPU likes them.
ENV HNE_RUNNER=cuda \
    HNE_API_PROCESSES=2 \
    HNE_MAX_BATCH=128 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=dependencies-gpu /opt/hne /opt/hne
RUN --mount=from=wheel,source=/wheels,target=/wheels pip install --no-cache-dir --no-deps /wheels/*.whl
USER hne

FROM runtime AS cpu
ENV HNE_RUNNER=cpu
COPY --from=dependencies-cpu /opt/hne /opt/hne
RUN --mount=from=wheel,source=/wheels,target=/wheels pip install --no-cache-dir --no-deps /wheels/*.whl
USER hne
