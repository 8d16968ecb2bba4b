# One image for every role; the role is the command: `poi attester --config /config/attester-1.toml`.
# Target "chain" is the local chain of docker-compose.yml, not part of a node.

FROM node:20-bookworm-slim AS chain
WORKDIR /chain
COPY tools/package.json tools/package-lock.json tools/.npmrc ./
RUN npm ci --omit=dev \
    && ln -s "$(find /chain/node_modules/@foundry-rs -path '*/bin/anvil' -type f)" /usr/local/bin/anvil \
    && mkdir /data \
    && chown 1000:1000 /data
USER 1000
VOLUME /data
HEALTHCHECK --interval=2s --timeout=3s --start-period=10s --retries=15 \
    CMD ["node", "-e", "fetch('http://127.0.0.1:8545', {method: 'POST', headers: {'content-type': 'application/json'}, body: '{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"eth_chainId\",\"params\":[]}'}).then(r => process.exit(r.ok ? 0 : 1), () => process.exit(1))"]
# Blocks by the clock: with a block for each transaction, a backlog stops anvil and eats its memory.
CMD ["anvil", "--host", "0.0.0.0", "--hardfork", "osaka", "--block-time", "1", "--prune-history", "32", "--state", "/data/chain.json", "--state-interval", "5"]


FROM python:3.11-slim-bookworm AS build
WORKDIR /src
COPY tools/requirements-uv.lock tools/
RUN python -m venv --without-pip /opt/poi \
    && pip install --no-cache-dir --require-hashes --no-deps --requirement tools/requirements-uv.lock
# Before the code, so that a change of the code does not fetch the packages again.
COPY requirements.lock ./
RUN uv pip install --no-cache --python /opt/poi/bin/python --require-hashes --no-deps --requirement requirements.lock
COPY pyproject.toml LICENSE ./
COPY performer performer
COPY attester attester
COPY aggregator aggregator
COPY shared shared
COPY poi poi
RUN uv pip install --no-cache --python /opt/poi/bin/python --no-deps --no-build-isolation . \
    && /opt/poi/bin/python -m compileall -q /opt/poi/lib


FROM python:3.11-slim-bookworm AS node
RUN useradd --uid 10001 --create-home poi \
    && mkdir /config /data \
    && chown 10001:10001 /config /data
COPY --from=build /opt/poi /opt/poi
COPY models /app/models
ENV PATH=/opt/poi/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    POI_HEALTH_URL=http://127.0.0.1:8700/health
WORKDIR /app
USER 10001
VOLUME ["/config", "/data"]
# The port is the default of the config file's [http]; with another one, set POI_HEALTH_URL too.
HEALTHCHECK --interval=5s --timeout=4s --start-period=30s --retries=6 \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(os.environ['POI_HEALTH_URL'], timeout=3)"]
ENTRYPOINT ["poi"]
CMD ["--help"]
