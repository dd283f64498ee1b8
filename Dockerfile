# The image of the one binary, posthorn. Build: docker build -t posthorn .
# Run: docker run -e POSTHORN_ADMIN_KEY=… -v posthorn:/var/lib/posthorn/data -p 127.0.0.1:8000:8000 posthorn

FROM rust:1.95-trixie AS chef
RUN cargo install --locked cargo-chef@0.1.78
WORKDIR /build

FROM chef AS plan
COPY . .
RUN cargo chef prepare --recipe-path recipe.json

FROM chef AS build
# The dependencies are a layer of their own: it is built again only when the manifests change.
COPY --from=plan /build/recipe.json recipe.json
RUN cargo chef cook --release --locked --bin posthorn --recipe-path recipe.json
COPY . .
RUN cargo build --release --locked --bin posthorn

FROM debian:trixie-slim
# Root certificates for https targets; the binary brings its own TLS but trusts what the system trusts.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --home-dir /var/lib/posthorn posthorn \
    && install -d -o posthorn -g posthorn /var/lib/posthorn/data
COPY --from=build /build/target/release/posthorn /usr/local/bin/posthorn

USER 10001
# The default database, sqlite://data/posthorn.db, lies here.
WORKDIR /var/lib/posthorn
VOLUME /var/lib/posthorn/data
# Beyond loopback the server starts only where an API key is configured (POSTHORN_ADMIN_KEY).
ENV POSTHORN_LISTEN=0.0.0.0:8000
EXPOSE 8000

# Readiness is an HTTP answer, and the slim image has no HTTP client: bash, which it has, asks for the
# status line itself. That needs nothing of the binary but its contract.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["bash", "-c", "\
    exec 3<>/dev/tcp/127.0.0.1/${POSTHORN_LISTEN##*:} \
    && printf 'GET /health/ready HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n' >&3 \
    && read -r _ status _ <&3 && [ \"$status\" = 200 ]"]

ENTRYPOINT ["posthorn"]
CMD ["serve"]
