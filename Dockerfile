# variant-adapter serve, for amd64 and arm64: every dependency has wheels for both, nothing is compiled.
#   docker buildx build --platform linux/amd64,linux/arm64 --sbom=true --provenance=mode=max -t REGISTRY/variant-adapter .
# The base image is an argument: docker build --build-arg BASE=python:3.12-slim .
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY adapter adapter
COPY analyzer analyzer
COPY optimizer optimizer
COPY certs certs
COPY emulator emulator
# Compiled here: a read-only root file system cannot cache bytecode later.
RUN python -m venv /opt/venv && /opt/venv/bin/pip install --no-cache-dir -c constraints.txt ".[keda]" \
    && /opt/venv/bin/python -m compileall -q /opt/venv/lib

FROM ${BASE}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="variant-adapter" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1 XDG_STATE_HOME=/tmp
USER 65532:65532
EXPOSE 6443 8080 9443
ENTRYPOINT ["variant-adapter"]
CMD ["serve", "--host", "0.0.0.0", "--metrics-host", "0.0.0.0", "--metrics-port", "8080"]
