# Four images:  docker build --target triton .   likewise gateway, monitor and trainer   (docs/kubernetes.md, docs/compose.md)
#
# Versions and hashes of Python packages come from requirements.lock alone: a stage selects its lines by name, pip resolves nothing.
# Base images are exact tags; add digests that you have verified: --build-arg TRITON_DIGEST=sha256:… --build-arg PYTHON_DIGEST=sha256:…

# At least 26.07, for NVIDIA's security bulletin of May 2026; the build checks that it matches tritonclient in the lock.
ARG TRITON_TAG=26.09-py3
ARG TRITON_DIGEST=
ARG PYTHON_TAG=3.11.16-slim-bookworm
ARG PYTHON_DIGEST=

FROM nvcr.io/nvidia/tritonserver:${TRITON_TAG}${TRITON_DIGEST:+@$TRITON_DIGEST} AS nvidia
FROM docker.io/library/python:${PYTHON_TAG}${PYTHON_DIGEST:+@$PYTHON_DIGEST} AS python


FROM nvidia AS triton-packages
USER root
# Packages that serving/backend and pipeline/runtime import inside Triton.
ARG PACKAGES="numpy onnxruntime openvino tokenizers"
# The lock's ONNX Runtime runs on CPUs. For GPUs name a CUDA build that fits the image, and its hash:
# --build-arg ONNXRUNTIME="onnxruntime-gpu==… --hash=sha256:…"
ARG ONNXRUNTIME=
COPY requirements.lock /build/requirements.lock
RUN set -eu; \
    test "$TRITON_SERVER_VERSION" = "$(sed -n 's/^tritonclient==\([^ ]*\).*/\1/p' /build/requirements.lock)"; \
    for name in $PACKAGES; do grep -E "^$name==" /build/requirements.lock; done > /build/wanted.txt; \
    if test -n "$ONNXRUNTIME"; then sed -i "s/^onnxruntime==.*/$ONNXRUNTIME/" /build/wanted.txt; fi; \
    python3 -m pip install --no-cache-dir --no-deps --require-hashes --only-binary=:all: --target /opt/evergreen/packages -r /build/wanted.txt


FROM nvidia AS triton
USER root
COPY --from=triton-packages /opt/evergreen/packages /opt/evergreen/packages
# Remove tools that an intruder could use and Triton does not need.
RUN set -eu; \
    test "$(id -u triton-server)" = 1000; \
    for tool in apt apt-get curl ftp git nc ncat pip pip3 rsync scp sftp ssh telnet wget; do \
      while path="$(command -v "$tool")"; do rm "$path"; done; \
    done; \
    while python3 -c "import shutil, pip; shutil.rmtree(pip.__path__[0])" 2>/dev/null; do :; done
# Searched before the image's own packages, which stay unchanged.
ENV PYTHONPATH=/opt/evergreen/packages PYTHONDONTWRITEBYTECODE=1
USER 1000:1000
# The arguments are in k8s/base/triton.yaml.
ENTRYPOINT []
CMD ["tritonserver", "--help"]


FROM python AS gateway-packages
# Packages that serving.gateway and serving.release.fetch_repository import, with their dependencies.
ARG PACKAGES="\
  aiohappyeyeballs aiohttp aiosignal alembic annotated-doc annotated-types anyio attrs brotli cachetools certifi cffi charset-normalizer \
  click cryptography fastapi filelock frozenlist fsspec gevent geventhttpclient googleapis-common-protos greenlet grpcio h11 \
  httptools idna Mako MarkupSafe ml_dtypes multidict numpy opentelemetry-api \
  opentelemetry-exporter-http-transport opentelemetry-exporter-otlp-common opentelemetry-exporter-otlp-proto-common \
  opentelemetry-exporter-otlp-proto-http opentelemetry-proto opentelemetry-sdk opentelemetry-semantic-conventions orjson \
  packaging prometheus_client propcache protobuf psycopg psycopg-binary pyarrow pycparser pydantic pydantic_core python-rapidjson \
  PyYAML requests SQLAlchemy starlette structlog tritonclient typing-inspection typing_extensions urllib3 uvicorn \
  uvloop yarl zope.event zope.interface"
COPY requirements.lock /build/requirements.lock
RUN set -eu; \
    for name in $PACKAGES; do grep -E "^$name==" /build/requirements.lock; done > /build/wanted.txt; \
    python -m pip install --no-cache-dir --no-deps --require-hashes --only-binary=:all: --target /opt/evergreen/packages -r /build/wanted.txt


FROM python AS gateway
RUN set -eu; \
    python -m pip uninstall --yes --root-user-action=ignore pip setuptools wheel; \
    groupadd --gid 10001 evergreen; \
    useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/evergreen --shell /usr/sbin/nologin evergreen; \
    install --directory --owner 10001 --group 10001 --mode 0700 /var/lib/evergreen
COPY --from=gateway-packages /opt/evergreen/packages /opt/evergreen/packages
COPY pipeline /opt/evergreen/pipeline
COPY serving /opt/evergreen/serving
COPY state /opt/evergreen/state
ENV PYTHONPATH=/opt/evergreen/packages PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 EVERGREEN_HOME=/var/lib/evergreen
# params.yaml is read from here; k8s mounts it.
WORKDIR /opt/evergreen
USER 10001:10001
CMD ["python", "-m", "serving.gateway"]


FROM python AS monitor-packages
# Packages that the processes of monitoring import in addition to the gateway's.
ARG PACKAGES="Jinja2 scipy threadpoolctl"
COPY requirements.lock /build/requirements.lock
RUN set -eu; \
    for name in $PACKAGES; do grep -E "^$name==" /build/requirements.lock; done > /build/wanted.txt; \
    python -m pip install --no-cache-dir --no-deps --require-hashes --only-binary=:all: --target /opt/evergreen/packages -r /build/wanted.txt


FROM gateway AS monitor
COPY --from=monitor-packages /opt/evergreen/packages /opt/evergreen/packages
COPY monitoring /opt/evergreen/monitoring
CMD ["python", "-m", "monitoring.monitor"]


# Makes models: every package of the lock, and git. The project itself is a clone in a volume (compose.yaml).
FROM python AS trainer
# torch has no hash in the lock: its builds for CPUs and CUDA share a version. For a GPU: --build-arg TORCH_INDEX= (pip's default index).
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
COPY requirements.lock /build/requirements.lock
RUN set -eu; \
    apt-get update; \
    apt-get install --yes --no-install-recommends git; \
    rm -rf /var/lib/apt/lists/*; \
    torch="$(grep ^torch== /build/requirements.lock)"; \
    grep -v ^torch== /build/requirements.lock > /build/others.txt; \
    python -m pip install --no-cache-dir --no-deps ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "$torch"; \
    python -m pip install --no-cache-dir --no-deps --require-hashes -r /build/others.txt; \
    python -m pip install --no-cache-dir "$torch"; \
    git config --system --add safe.directory /source; \
    git config --system --add safe.directory /source/.git; \
    groupadd --gid 10001 evergreen; \
    useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/evergreen --shell /usr/sbin/nologin evergreen; \
    install --directory --owner 10001 --group 10001 --mode 0700 /var/lib/evergreen /project /mlflow
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 EVERGREEN_HOME=/var/lib/evergreen
WORKDIR /project
USER 10001:10001
CMD ["python", "-m", "monitoring.retrain"]
