#!/usr/bin/env bash
# Makes a container image of one program, with the libraries that it needs and nothing else. No daemon, no
# registry and no rights are needed: the image is an OCI archive, which `ctr -n k8s.io images import` and
# `skopeo copy oci-archive:ARCHIVE docker://...` take.
#
#   bash deploy/image.sh ARCHIVE NAME:TAG PROGRAM
#
# The same program makes the same image, byte for byte.
set -euo pipefail

archive=$(realpath -m "$1")
name=$2
program=$(realpath "$3")
case $(uname -m) in
    x86_64) architecture=amd64 ;;
    aarch64) architecture=arm64 ;;
    *) architecture=$(uname -m) ;;
esac

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root="$work/root"
blobs="$work/image/blobs/sha256"
mkdir -p "$root" "$blobs"

# Names of functions stay, for what is told of a crash; the rest of what is for debuggers is most of the size.
install -m 755 "$program" "$root/"
strip --strip-debug "$root/${program##*/}"
# A program that needs none makes ldd fail.
for library in $(ldd "$program" 2> /dev/null | grep -o '/[^ ]*' || true); do
    install -D -m 755 "$library" "$root$library"
done
find "$root" -type d -exec chmod 755 {} +

add() { # Moves a file to the blobs, and prints its descriptor.
    local digest size
    digest=$(sha256sum "$2" | cut -d ' ' -f 1)
    size=$(stat -c %s "$2")
    mv "$2" "$blobs/$digest"
    printf '{"mediaType":"application/vnd.oci.image.%s","digest":"sha256:%s","size":%d' "$1" "$digest" "$size"
}

together=(tar --format=gnu --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner)
"${together[@]}" -C "$root" -cf "$work/layer" .
layer=$(add layer.v1.tar "$work/layer")}
[[ $layer =~ sha256:[0-9a-f]+ ]]
cat > "$work/config" << JSON
{"architecture":"$architecture","os":"linux","config":{"Entrypoint":["/${program##*/}"],"WorkingDir":"/"},
"rootfs":{"type":"layers","diff_ids":["${BASH_REMATCH[0]}"]}}
JSON
config=$(add config.v1+json "$work/config")}
cat > "$work/manifest" << JSON
{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":$config,"layers":[$layer]}
JSON
manifest=$(add manifest.v1+json "$work/manifest")
cat > "$work/image/index.json" << JSON
{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[$manifest,
"annotations":{"io.containerd.image.name":"$name","org.opencontainers.image.ref.name":"${name##*:}"}}]}
JSON
printf '{"imageLayoutVersion":"1.0.0"}' > "$work/image/oci-layout"
"${together[@]}" -C "$work/image" -cf "$archive" .
