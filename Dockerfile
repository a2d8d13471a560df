# Three images:  docker build --target triton .   and so for gateway and monitor   (docs/kubernetes.md)
#
# Versions of Python packages stand in requirements.lock alone; a stage picks its lines out of it by name, and nothing is resolved.
# Base images are exact tags; give the digests that you have checked: --build-arg TRITON_DIGEST=sha256:… --build-arg PYTHON_DIGEST=sha256:…

# At least 26.07 for NVIDIA's security bulletin of May 2026; the build checks that it is the release of tritonclient in the lock.
ARG TRITON_TAG=26.09-py3
ARG TRITON_DIGEST=
ARG PYTHON_TAG=3.11.16-slim-bookworm
ARG PYTHON_DIGEST=

FROM nvcr.io/nvidia/tritonserver:${TRITON_TAG}${TRITON_DIGEST:+@$TRITON_DIGEST} AS nvidia
FROM docker.io/library/python:${PYTHON_TAG}${PYTHON_DIGEST:+@$PYTHON_DIGEST} AS python


FROM nvidia AS triton-packages
USER root
# What serving/backend and pipeline/runtime import inside Triton.
ARG PACKAGES="numpy onnxruntime openvino tokenizers"
# The lock's ONNX Runtime computes on CPUs. For GPUs name a CUDA build that fits the image: --build-arg ONNXRUNTIME=onnxruntime-gpu==…
ARG ONNXRUNTIME=
COPY requirements.lock /build/requirements.lock
RUN set -eu; \
    test "$TRITON_SERVER_VERSION" = "$(sed -n 's/^tritonclient==//p' /build/requirements.lock)"; \
    for name in $PACKAGES; do grep -E "^$name==" /build/requirements.lock; done > /build/wanted.txt; \
    if test -n "$ONNXRUNTIME"; then sed -i "s/^onnxruntime==.*/$ONNXRUNTIME/" /build/wanted.txt; fi; \
    python3 -m pip install --no-cache-dir --no-deps --only-binary=:all: --target /opt/evergreen/packages -r /build/wanted.txt


FROM nvidia AS triton
USER root
COPY --from=triton-packages /opt/evergreen/packages /opt/evergreen/packages
# NVIDIA's image comes with tools that whoever broke in would want; Triton needs none of them.
RUN set -eu; \
    test "$(id -u triton-server)" = 1000; \
    for tool in apt apt-get curl ftp git nc ncat pip pip3 rsync scp sftp ssh telnet wget; do \
      while path="$(command -v "$tool")"; do rm "$path"; done; \
    done; \
    while python3 -c "import shutil, pip; shutil.rmtree(pip.__path__[0])" 2>/dev/null; do :; done
# In front of the image's own packages, which stay as NVIDIA built them.
ENV PYTHONPATH=/opt/evergreen/packages PYTHONDONTWRITEBYTECODE=1
USER 1000:1000
# k8s/base/triton.yaml has the arguments.
ENTRYPOINT []
CMD ["tritonserver", "--help"]


FROM python AS gateway-packages
# What serving.gateway and serving.release.fetch_repository import, and what these packages import in turn.
ARG PACKAGES="\
  aiohappyeyeballs aiohttp aiosignal alembic annotated-doc annotated-types anyio attrs brotli cachetools certifi charset-normalizer \
  click fastapi filelock frozenlist fsspec gevent geventhttpclient googleapis-common-protos greenlet grpcio h11 \
  httptools idna Mako MarkupSafe ml_dtypes multidict numpy opentelemetry-api \
  opentelemetry-exporter-http-transport opentelemetry-exporter-otlp-common opentelemetry-exporter-otlp-proto-common \
  opentelemetry-exporter-otlp-proto-http opentelemetry-proto opentelemetry-sdk opentelemetry-semantic-conventions orjson \
  packaging prometheus_client propcache protobuf psycopg psycopg-binary pyarrow pydantic pydantic_core python-rapidjson \
  PyYAML requests SQLAlchemy starlette structlog tritonclient typing-inspection typing_extensions urllib3 uvicorn \
  uvloop yarl zope.event zope.interface"
COPY requirements.lock /build/requirements.lock
RUN set -eu; \
    for name in $PACKAGES; do grep -E "^$name==" /build/requirements.lock; done > /build/wanted.txt; \
    python -m pip install --no-cache-dir --no-deps --only-binary=:all: --target /opt/evergreen/packages -r /build/wanted.txt


FROM python AS gateway
RUN set -eu; \
    python -m pip uninstall --yes --root-user-action=ignore pip setuptools wheel; \
    groupadd --gid 10001 evergreen; \
    useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/evergreen --shell /usr/sbin/nologin evergreen
COPY --from=gateway-packages /opt/evergreen/packages /opt/evergreen/packages
COPY pipeline /opt/evergreen/pipeline
COPY serving /opt/evergreen/serving
COPY state /opt/evergreen/state
ENV PYTHONPATH=/opt/evergreen/packages PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 EVERGREEN_HOME=/var/lib/evergreen
# params.yaml is looked for here; k8s mounts it.
WORKDIR /opt/evergreen
USER 10001:10001
CMD ["python", "-m", "serving.gateway"]


FROM python AS monitor-packages
# What monitoring.monitor imports besides the gateway's packages.
ARG PACKAGES="scipy threadpoolctl"
COPY requirements.lock /build/requirements.lock
RUN set -eu; \
    for name in $PACKAGES; do grep -E "^$name==" /build/requirements.lock; done > /build/wanted.txt; \
    python -m pip install --no-cache-dir --no-deps --only-binary=:all: --target /opt/evergreen/packages -r /build/wanted.txt


FROM gateway AS monitor
COPY --from=monitor-packages /opt/evergreen/packages /opt/evergreen/packages
COPY monitoring /opt/evergreen/monitoring
CMD ["python", "-m", "monitoring.monitor"]
