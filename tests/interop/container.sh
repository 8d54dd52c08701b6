#!/bin/sh
# What docker/Dockerfile's last stage makes, without a container engine: the program and the libraries it needs in a root of
# their own, as that user, with that environment. And whether the other files there say what pgferry understands.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
"$top/tests/setup.sh" python3-yaml
. "$here/server.sh"
check() { what=$1; shift; if "$@"; then ok "$what"; else wrong "$what"; fi; }
said() { sed -n "s/^$1 //p" "$top/docker/Dockerfile" | tail -1; }

user=$(said USER)
environment=$(said ENV)
program=$(said ENTRYPOINT | tr -d '[]" ')
root=$work/root
mkdir -p "$root$(dirname "$program")" "$root/run/pgferry" "$root/lib64"
cp "$pgferry" "$root$program"
ldd "$pgferry" | grep -o '/[^ ]*' | while read -r library; do
    mkdir -p "$root$(dirname "$library")"
    cp "$library" "$root$library"
done
# In a namespace of its own nobody but one's own user is there.
enter="unshare --map-root-user chroot"
if [ "$(id -u)" = 0 ]; then
    chown "$user" "$root/run/pgferry"
    enter="chroot --userspec=$user"
fi
inside() { env -i PATH="$PATH" $environment PGFERRY_UPSTREAM="postgres://127.0.0.1:$port" $enter "$root" "$program" "$@"; }

check "what the image takes from the sources is there" eval \
    'for file in $(sed -n "s/^COPY \([^-].*\) [^ ]*$/\1/p" "$top/docker/Dockerfile"); do [ -e "$top/$file" ]; done'
check "the program tells its version in a root of its own" inside --version
check "nobody is there yet, and health says so" eval '! inside health 2>/dev/null'
env -i PATH="$PATH" $environment PGFERRY_UPSTREAM="postgres://127.0.0.1:$port" $enter "$root" "$program" 2>"$work/pgferry.log" &
ferry=$!
children="$children $ferry"
until grep -q 'ready: ' "$work/pgferry.log"; do kill -0 "$ferry"; sleep 0.1; done
one() { [ "$("$bin/psql" -X -A -t -h "$root/run/pgferry" -U postgres -d postgres -c 'select 1')" = 1 ]; }
check "a program on the same volume gets a row" one
check "pgferry health, as a probe runs it" inside health
check "pgferry health --live, as a probe runs it" inside health --live
kill "$ferry"
check "it ends with 0 when it is told to" wait "$ferry"
check "and leaves no socket behind" eval '[ ! -e "$root/run/pgferry/.s.PGSQL.5432" ]'

check "the settings and files that docker/ names are there" /usr/bin/python3 - "$top" "$("$pgferry" settings)" "$program" <<'PYTHON'
import pathlib, re, sys, yaml
top, settings, program = pathlib.Path(sys.argv[1]), set(re.findall(r"^\| `(\w+)`", sys.argv[2], re.M)), sys.argv[3]
wrong = []
for file in ("Dockerfile", "compose.yaml", "kubernetes.yaml"):
    for name in re.findall(r"PGFERRY_(\w+)", (top / "docker" / file).read_text()):
        if name.lower() not in settings:
            wrong.append(f"{file}: there is no setting {name}")
compose = yaml.safe_load((top / "docker/compose.yaml").read_text())
build = compose["services"]["pgferry"]["build"]
if not (top / "docker" / build["context"] / build["dockerfile"]).exists():
    wrong.append("compose.yaml: no such Dockerfile")
pod = yaml.safe_load((top / "docker/kubernetes.yaml").read_text())["spec"]["template"]["spec"]
sidecar = pod["initContainers"][0]
for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
    if sidecar[probe]["exec"]["command"][:2] != [program, "health"]:
        wrong.append(f"kubernetes.yaml: {probe}")
user = re.search(r"^USER (\d+):(\d+)$", (top / "docker/Dockerfile").read_text(), re.M).groups()
if user != tuple(str(sidecar["securityContext"][key]) for key in ("runAsUser", "runAsGroup")):
    wrong.append("kubernetes.yaml: another user than the Dockerfile's")
mounts = {mount["mountPath"] for part in (sidecar, pod["containers"][0]) for mount in part["volumeMounts"]}
if mounts != {"/run/pgferry"}:
    wrong.append(f"kubernetes.yaml: the volume is mounted at {mounts}")
print("\n".join(wrong), end="\n" if wrong else "")
sys.exit(bool(wrong))
PYTHON
exit "$status"
