FROM python:3.11-slim AS build
# "[otel]" for traces.
ARG EXTRAS=""
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY cache cache
COPY channels channels
COPY db db
COPY migrations migrations
COPY realtime realtime
# Neither pip nor sources are needed later: what runs is the environment alone.
RUN python -m venv --without-pip /zonecast \
    && pip --python /zonecast/bin/python install --no-cache-dir --no-compile \
        --constraint constraints.txt ".${EXTRAS}"

FROM python:3.11-slim
COPY --from=build /zonecast /zonecast
# What lets one container alone serve its SQLite file: mount a volume at /data. All else may be
# read-only (`docker run --read-only`).
RUN install -d -o 10001 -g 10001 /data
WORKDIR /data
ENV PATH=/zonecast/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 ZONECAST_HOST=0.0.0.0
# By number, so that a cluster can see that it is not root.
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=15s CMD ["python", "-c", \
    "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=3)"]
CMD ["zonecast", "serve"]
