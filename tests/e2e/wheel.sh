#!/usr/bin/env bash
# Build the wheel, install it with its few dependencies and nothing else, and serve a function from it.
set -euo pipefail
cd "$(dirname "$0")/../.."
work=$(mktemp -d)
server=
finish() {
  [[ -n $server ]] && kill "$server" 2>/dev/null && wait "$server" 2>/dev/null
  rm -rf "$work"
}
trap finish EXIT

.venv/bin/python -m build --wheel --no-isolation --outdir "$work/dist" . >/dev/null 2>&1
.venv/bin/python -m venv "$work/venv"
.venv/bin/uv pip install --quiet --python "$work/venv/bin/python" --constraint <(sed 's/ .*//; /^ *#/d; /^ *--hash/d; s/ *\\$//' requirements/dev.lock | grep '==') "$work"/dist/*.whl
echo "installed: $(.venv/bin/uv pip list --quiet --python "$work/venv/bin/python" | tail -n +3 | awk '{printf "%s %s, ", $1, $2}')"

mkdir "$work/function"
cat > "$work/function/handler.py" <<'HANDLER'
from shoal import http


@http
async def hello(body: dict) -> dict:
    return {"hello": body["name"]}
HANDLER
cd "$work/function"
port=$("$work/venv/bin/python" -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])')
PORT=$port SHOAL_SOURCE="$work/function" "$work/venv/bin/python" -m shoal.runtime >"$work/log" 2>&1 &
server=$!
for _ in $(seq 300); do
  curl -sS --max-time 30 "http://127.0.0.1:$port/_shoal/ready" >/dev/null 2>&1 && break
  kill -0 "$server" || { cat "$work/log"; exit 1; }
  sleep 0.1
done
answer=$(curl -sS --max-time 30 -H 'content-type: application/json' -d '{"name": "wheel"}' "http://127.0.0.1:$port/")
[[ $answer == '{"hello":"wheel"}' || $answer == '{"hello": "wheel"}' ]] || { echo "unexpected answer: $answer"; cat "$work/log"; exit 1; }
echo "served from the wheel alone: $answer"
for verb in "check ." "up --home $work/home"; do
  # shellcheck disable=SC2086  # two words on purpose
  if "$work/venv/bin/shoal" $verb 2>"$work/hint"; then echo "shoal $verb ran without its extra"; exit 1; fi
  grep -q "shoal\[platform\]" "$work/hint" || { cat "$work/hint"; exit 1; }
  echo "without the extra, shoal ${verb%% *} says: $(tail -1 "$work/hint")"
done
