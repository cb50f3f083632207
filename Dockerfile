FROM python:3.11-slim AS build
WORKDIR /src
COPY . .
RUN python -m venv /zonecast \
    && /zonecast/bin/pip install --no-cache-dir --constraint constraints.txt .

FROM python:3.11-slim
RUN useradd --system --no-create-home --uid 10001 zonecast
COPY --from=build /zonecast /zonecast
# What lets one container alone serve its SQLite file: mount a volume at /data.
RUN install -d -o zonecast /data
WORKDIR /data
ENV PATH=/zonecast/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 ZONECAST_HOST=0.0.0.0
USER zonecast
EXPOSE 8000
CMD ["zonecast", "serve"]
