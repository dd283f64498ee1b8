# The image of the one binary, posthorn. Build: docker build -t posthorn .
# Look around: docker run --rm posthorn demo --exit
# Serve, with the certificate in ./tls readable by user 10001:
#   docker run --read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges \
#     -e POSTHORN_ADMIN_KEY=… -e POSTHORN_ENCRYPTION_KEY=… -v posthorn:/var/lib/posthorn/data \
#     -v ./tls:/var/lib/posthorn/tls:ro -e POSTHORN_TLS_CERTIFICATE=tls/tls.pem -e POSTHORN_TLS_KEY=tls/tls.key \
#     -p 8000:8000 posthorn

FROM rust:1.95-trixie AS chef
RUN cargo install --locked cargo-chef@0.1.78
WORKDIR /build

FROM chef AS plan
COPY . .
RUN cargo chef prepare --recipe-path recipe.json

FROM chef AS build
# The dependencies are a layer of their own: it is built again only when the manifests change.
COPY --from=plan /build/recipe.json recipe.json
# A dependency, too, though it lies in this repository; the recipe leaves it out.
COPY patches patches
RUN cargo chef cook --release --locked --bin posthorn --recipe-path recipe.json
COPY . .
RUN cargo build --release --locked --bin posthorn

FROM debian:trixie-slim
# Root certificates for https targets; the binary brings its own TLS but trusts what the system trusts. openssl asks
# for the readiness of a server that speaks TLS, and makes the certificate in docker-compose.yml.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates openssl \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --home-dir /var/lib/posthorn posthorn \
    && install -d -m 0700 -o posthorn -g posthorn /var/lib/posthorn/data /var/lib/posthorn/tls
COPY --from=build /build/target/release/posthorn /usr/local/bin/posthorn

USER 10001
# The default database, sqlite://data/posthorn.db, lies here.
WORKDIR /var/lib/posthorn
VOLUME /var/lib/posthorn/data
# A service: it starts only with an admin key (POSTHORN_ADMIN_KEY), an encryption key (POSTHORN_ENCRYPTION_KEY), and,
# since whoever reaches the container reaches it, with a certificate (POSTHORN_TLS_CERTIFICATE, POSTHORN_TLS_KEY) or
# behind a proxy that alone reaches it (POSTHORN_BEHIND_PROXY=true, no published port).
ENV POSTHORN_PROFILE=production \
    POSTHORN_LISTEN=0.0.0.0:8000
EXPOSE 8000

# Readiness is an HTTP answer, and the slim image has no HTTP client: bash asks for the status line itself, over TLS
# through openssl. That needs nothing of the binary but its contract. The certificate is not looked at: it is this
# container's own.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["bash", "-c", "\
    ask() { printf 'GET /health/ready HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n'; }; \
    port=${POSTHORN_LISTEN##*:}; \
    if [ -n \"$POSTHORN_TLS_CERTIFICATE\" ]; then \
        read -r _ status _ < <(ask | openssl s_client -quiet -connect 127.0.0.1:$port 2>/dev/null); \
    else \
        exec 3<>/dev/tcp/127.0.0.1/$port && ask >&3 && read -r _ status _ <&3; \
    fi; \
    [ \"$status\" = 200 ]"]

ENTRYPOINT ["posthorn"]
CMD ["serve"]
