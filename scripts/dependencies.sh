# Sourced by run and test: the packages of Debian 12 and Ubuntu 24.04 that the build needs, installed where missing.
packages=(g++ cmake ninja-build git libfmt-dev libcli11-dev libsqlitecpp-dev libsqlite3-dev nlohmann-json3-dev
          libtbb-dev zlib1g-dev libgtest-dev libgmock-dev libbenchmark-dev libjs-chart.js
          libopenmpi-dev openmpi-bin libboost-context-dev)
gui_packages=(qt6-base-dev qt6-svg-dev libqcustomplot-dev)  # for the window alone

install_missing_packages() {
  command -v dpkg-query > /dev/null || {
    echo "foretoken: no dpkg here; install by hand what these Debian packages hold: ${packages[*]}" >&2
    return 0
  }
  local missing=() package
  for package in "${packages[@]}"; do
    [[ $(dpkg-query -W -f='${db:Status-Status}' "$package" 2> /dev/null) == installed ]] || missing+=("$package")
  done
  ((${#missing[@]})) || return 0

  local root=()
  if ((EUID != 0)); then
    command -v sudo > /dev/null || {
      echo "foretoken: missing packages: ${missing[*]}" >&2
      echo "foretoken: neither root nor sudo here; ask an administrator for: apt-get install ${missing[*]}" >&2
      exit 2
    }
    root=(sudo)
  fi
  echo "foretoken: installing ${missing[*]}" >&2
  # The lists may be old or absent: update once when the first attempt fails.
  local install=("${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}")
  "${install[@]}" > /dev/null 2>&1 || {
    "${root[@]}" apt-get update -q >&2
    "${install[@]}" >&2
  }
}

# build_release TARGET...: configures once and builds what is named, quiet unless it fails.
build_release() {
  local log=$project/build/release/build.log
  mkdir -p "$project/build/release"
  # Also where what was installed since makes a target possible.
  if [[ ! -f $project/build/release/build.ninja ]] ||
     ! ninja -C "$project/build/release" -t query "$@" > /dev/null 2>&1; then
    echo "foretoken: configuring" >&2
    (cd "$project" && cmake --preset release) > "$log" 2>&1 || { cat "$log" >&2; exit 3; }
  fi
  if [[ -t 2 ]]; then
    (cd "$project" && NINJA_STATUS='[%f/%t, %es] ' cmake --build --preset release --target "$@") >&2 || exit 3
  else
    ninja -C "$project/build/release" -n "$@" 2> /dev/null | grep -q 'no work to do' || echo "foretoken: building" >&2
    (cd "$project" && cmake --build --preset release --target "$@") > "$log" 2>&1 || { cat "$log" >&2; exit 3; }
  fi
}
