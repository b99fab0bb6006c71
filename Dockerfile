# One image for all services: `manager`, `worker`, `metrics`. The server that `swell up` embeds is in it, too.
FROM python:3.13-slim-trixie AS build
WORKDIR /src
# The locked packages first: they change less often than we do.
COPY requirements.txt requirements-build.txt ./
RUN python -m venv /opt/build \
 && /opt/build/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes -r requirements-build.txt \
 && python -m venv --without-pip /opt/swell \
 && /opt/build/bin/pip --python /opt/swell/bin/python install --no-cache-dir --disable-pip-version-check --no-compile \
    --require-hashes -r requirements.txt
COPY pyproject.toml README.md CHANGELOG.md ./
COPY shared shared
COPY services services
RUN /opt/build/bin/pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir /tmp/wheel . \
 && /opt/build/bin/pip --python /opt/swell/bin/python install --quiet --disable-pip-version-check --no-deps --no-compile \
    /tmp/wheel/swell-*.whl \
 && find /opt/swell -name tests -path '*/site-packages/*' -type d -prune -exec rm -rf {} + \
 && /opt/swell/bin/python -m compileall -q -j 0 /opt/swell/lib

FROM python:3.13-slim-trixie
LABEL org.opencontainers.image.title="Swell" \
      org.opencontainers.image.description="Coordinates large fleets of agents over Redis Streams" \
      org.opencontainers.image.version="0.1.0"
RUN useradd --system --uid 10001 --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin swell \
 && rm -rf /usr/local/bin/pip* /usr/local/lib/python3*/site-packages/pip* /usr/local/lib/python3*/ensurepip
COPY --from=build /opt/swell /opt/swell
COPY --chmod=0755 docker/ready.py /usr/local/bin/swell-ready
COPY --chmod=0755 docker/secrets.sh /usr/local/bin/swell-secrets
# Agents of your own: copy or mount their modules here, and name them in SWELL_APP.
WORKDIR /apps
ENV PATH=/opt/swell/bin:$PATH \
    PYTHONPATH=/apps \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    SWELL_LOG_FORMAT=json
USER swell
STOPSIGNAL SIGTERM
EXPOSE 8700 8701 8702
ENTRYPOINT ["swell"]
CMD ["--help"]
