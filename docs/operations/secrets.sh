#!/bin/sh
# Makes the secrets of compose.yaml in .secrets: random passwords, URLs with them, and a
# certificate for 127.0.0.1 to try it with. What is there already stays as it is.
set -eu
cd "$(dirname "$0")/../.."
umask 077
mkdir -p .secrets
cd .secrets

make() {
    # Containers read it under other accounts; the folder keeps everybody else out.
    [ -s "$1" ] || { cat >"$1" && chmod 444 "$1"; }
}

password() {
    openssl rand -hex 24
}

[ -s postgres_password ] || password | make postgres_password
[ -s redis_password ] || password | make redis_password
[ -s grafana_password ] || password | make grafana_password
echo "postgresql+asyncpg://zonecast:$(cat postgres_password)@postgres:5432/zonecast" |
    make database_url
echo "redis://:$(cat redis_password)@redis:6379/0" | make redis_url
echo "requirepass $(cat redis_password)" | make redis_conf
if [ ! -s tls_key ]; then
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 \
        -subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1 \
        -keyout tls_key -out tls_certificate 2>/dev/null
    chmod 444 tls_key tls_certificate
fi
