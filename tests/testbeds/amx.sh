#!/bin/bash
# Runs a Linux program on an emulated Sapphire Rapids (AMX, AVX512-BF16, AVX512-VNNI, ...): Debian 12's cloud kernel in
# Bochs 3.0 from Debian 13, unpacked into a private cache. README.md says how, and with which limits.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cache=${R1_TESTBEDS_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/r1rt-testbeds}
cannot_run=77 timed_out=124 bed_failed=125

usage() {
  cat >&2 <<'U'
usage: amx.sh [--mem MB] [--file PATH]... [--env K=V]... [--timeout SECONDS] [--log FILE]
              PROGRAM [ARGUMENT...]
       amx.sh --check          77 if packages are missing
  --mem      guest memory in MB, at most 2048                                       (768)
  --file     copies a file or folder into the guest, at the same absolute path
  --log      keeps the guest's kernel log
The guest has one CPU, and the program's shared libraries. Prints the program's stdout and stderr and exits with its
status. 77: this machine cannot run the guest; 124: it was not done in time; 125: the guest failed.
U
  exit $bed_failed
}

say() { echo "${0##*/}: $*" >&2; }
skip() { say "SKIPPED: $*"; exit $cannot_run; }
fail() { say "$*"; exit $bed_failed; }

missing=
need() {  # need PATH-OR-COMMAND DEBIAN-PACKAGE
  [[ $1 == /* && -e $1 ]] || command -v "$1" >/dev/null || missing+=" $2"
}

check_needs() {
  need /bin/busybox busybox-static
  need cpio cpio
  need gcc-12 gcc-12
  need make make
  need genisoimage genisoimage
  need /usr/lib/ISOLINUX/isolinux.bin isolinux
  need /usr/lib/syslinux/modules/bios/ldlinux.c32 syslinux-common
  need apt-get apt
  [[ -z $missing ]] || skip "the emulated machine needs: apt-get install --no-install-recommends$missing"
}

# Unpacks Debian packages of the system's own release into the cache, once per version.
# Sets kernel_release and kernel_dir.
fetch_kernel() {
  kernel_release=$(apt-cache depends linux-image-cloud-amd64 2>/dev/null |
    sed -n 's/.*Depends: linux-image-//p' | head -1)
  if [[ ! $kernel_release ]]; then  # without apt's lists: the last one that was fetched
    kernel_dir=$(find "$cache" -maxdepth 2 -path '*/linux-*/done' -printf '%h\n' 2>/dev/null | sort -V | tail -1)
    [[ $kernel_dir ]] || skip "apt knows no linux-image-cloud-amd64; run: apt-get update"
    kernel_release=${kernel_dir##*/linux-}
  fi
  kernel_dir=$cache/linux-$kernel_release
  [[ -e $kernel_dir/done ]] && return
  local tmp common=${kernel_release%-cloud-amd64}-common
  tmp=$(mktemp -d "$cache/tmp.XXXXXX")
  local packages=("linux-image-$kernel_release" "linux-headers-$kernel_release"
    "linux-headers-$common" "linux-kbuild-$(cut -d. -f1,2 <<<"$kernel_release")")
  (cd "$tmp" && apt-get -q -o APT::Sandbox::User=root download "${packages[@]}" >&2 &&
    for deb in *.deb; do dpkg -x "$deb" . && rm "$deb"; done &&
    rm -rf lib/modules usr/share/doc &&
    sed -i "s|/usr/src/|$kernel_dir/usr/src/|" "usr/src/linux-headers-$kernel_release/Makefile" &&
    touch done) || { rm -rf "$tmp"; skip "cannot fetch ${packages[*]}; run: apt-get update"; }
  rm -rf "$kernel_dir" && mv "$tmp" "$kernel_dir"
}

# Bochs 3.0 and the libraries it needs, from Debian 13, next to Debian 12 and not into it.
fetch_bochs() {
  bochs_dir=$cache/bochs-trixie-$(sha256sum "$here/bochs_fix.pl" | cut -c1-12)
  [[ -e $bochs_dir/done ]] && return
  local tmp
  tmp=$(mktemp -d "$cache/tmp.XXXXXX")
  mkdir -p "$tmp"/apt/{lists/partial,cache/archives/partial}
  local mirror  # the Debian archive that this machine's own apt uses
  mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -v security | sort -u | head -1)
  [[ $mirror ]] || { rm -rf "$tmp"; skip "apt has no Debian archive configured"; }
  echo "deb $mirror trixie main" >"$tmp/apt/sources.list"
  local apt=(-q -o "Dir::Etc::sourcelist=$tmp/apt/sources.list" -o Dir::Etc::sourceparts=-
    -o "Dir::State::lists=$tmp/apt/lists" -o "Dir::Cache=$tmp/apt/cache"
    -o Dir::State::status=/dev/null -o APT::Install-Recommends=0 -o APT::Sandbox::User=root
    -o APT::Architecture=amd64 -o APT::Get::List-Cleanup=0)
  (cd "$tmp" && apt-get "${apt[@]}" update >&2 &&
    mapfile -t packages < <(apt-get "${apt[@]}" -s install bochs bochs-term bochsbios vgabios |
      awk '/^Inst/ { print $2 }' | grep -E '^(lib|bochs|vgabios|zlib1g)' | grep -v '^libpam') &&
    ((${#packages[@]} > 0)) && apt-get "${apt[@]}" download "${packages[@]}" >&2 &&
    for deb in *.deb; do dpkg -x "$deb" . && rm "$deb"; done &&
    rm -rf apt usr/share/doc usr/share/man &&
    perl "$here/bochs_fix.pl" usr/bin/bochs-bin && touch done) ||
    { rm -rf "$tmp"; skip "cannot set up bochs 3.0+dfsg-1 from Debian trixie"; }
  rm -rf "$bochs_dir" && mv "$tmp" "$bochs_dir"
}

build_module() {  # amx_guest.ko for this kernel, rebuilt when its source changes
  module=$kernel_dir/amx_guest-$(sha256sum "$here/amx_guest/amx_guest.c" | cut -c1-12).ko
  [[ -e $module ]] && return
  mkdir "$work/module"
  cp "$here"/amx_guest/{amx_guest.c,Kbuild} "$work/module"
  make -s -C "$kernel_dir/usr/src/linux-headers-$kernel_release" M="$work/module" modules \
    >"$work/make.log" 2>&1 || { cat "$work/make.log" >&2; fail "cannot build amx_guest.ko"; }
  strip --strip-debug "$work/module/amx_guest.ko"
  mv "$work/module/amx_guest.ko" "$module.$$" && mv "$module.$$" "$module"
}

quote() { local q=\'; for a; do printf "'%s' " "${a//$q/$q\\$q$q}"; done; }

copy_into_guest() {  # at the same absolute path, links followed
  mkdir -p "$work/root$(dirname "$1")"
  cp -rL "$1" "$work/root$1"
}

# An initramfs of busybox, the program, its libraries and files. Serial ports end in files: com1 kernel log, com2 the
# program's stdout, com3 its stderr, com4 its exit status.
make_initramfs() {  # make_initramfs OUT PROGRAM ARGS...
  local out=$1 program=$2 root=$work/root f library
  shift 2
  mkdir -p "$root"/{bin,dev,proc,sys,tmp}
  cp /bin/busybox "$root/bin/busybox"
  cp "$module" "$root/amx_guest.ko"
  copy_into_guest "$program"
  strip "$root$program" 2>/dev/null || true
  # A static program has no libraries; then ldd fails.
  while read -r library; do
    [[ -e $root$library ]] || copy_into_guest "$library"
  done < <(ldd "$program" 2>/dev/null | grep -o '/[^ ]*')
  for f in ${files[@]+"${files[@]}"}; do copy_into_guest "$f"; done
  {
    echo '#!/bin/busybox sh'
    echo 'b=/bin/busybox'
    echo '$b mount -t devtmpfs dev /dev; $b mount -t proc proc /proc; $b mount -t sysfs sys /sys'
    echo '$b mount -t tmpfs tmp /tmp; $b mkdir /dev/shm; $b mount -t tmpfs shm /dev/shm'
    echo 'for t in 1 2 3; do $b stty -F /dev/ttyS$t 115200 raw -echo; done'
    echo '$b insmod /amx_guest.ko'
    echo 'cd /tmp; export HOME=/tmp PATH=/bin'
    for f in ${environment[@]+"${environment[@]}"}; do echo "export $(quote "$f")"; done
    echo "$(quote "$program" "$@")</dev/null >/dev/ttyS1 2>/dev/ttyS2"
    echo 'echo "exit $?" >/dev/ttyS3'
    echo '$b poweroff -f'
  } >"$root/init"
  chmod +x "$root/init"
  (cd "$root" && find . | cpio -o -H newc --quiet --owner=0:0 | gzip -1) >"$out"
}

if [[ ${1:-} == --check ]]; then check_needs; exit 0; fi
files=() environment=() mem=768 limit=600 keep_log=
while [[ ${1:-} == --* ]]; do
  case $1 in
    --file) files+=("$(realpath -e "$2")") ;;
    --env) environment+=("$2") ;;
    --mem) mem=$2 ;;
    --timeout) limit=$2 ;;
    --log) keep_log=$2 ;;
    *) usage ;;
  esac
  shift 2 || usage
done
[[ $# -gt 0 ]] || usage
[[ -f $1 && -x $1 ]] || fail "$1: not an executable file"
program=$(realpath -e "$1")
shift

check_needs
mkdir -p "$cache"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
exec 9>"$cache/lock"
flock 9
fetch_kernel
fetch_bochs
build_module
exec 9>&-

mkdir -p "$work/iso"
make_initramfs "$work/iso/initrd.gz" "$program" "$@"
cp "$kernel_dir/boot/vmlinuz-$kernel_release" "$work/iso/vmlinuz"
cp /usr/lib/ISOLINUX/isolinux.bin /usr/lib/syslinux/modules/bios/ldlinux.c32 "$work/iso/"
# clearcpuid=amx_tile: see amx_guest.c. clearcpuid=fsrm: Bochs has no MSR 0x1a0, so Linux turns
# ERMS off and keeps FSRM, and its memmove is wrong with that pair. no5lvl: Bochs panics when it
# leaves system management mode (ACPI) with 5-level paging on.
cat >"$work/iso/isolinux.cfg" <<'C'
default guest
prompt 0
label guest
 kernel vmlinuz
 append initrd=initrd.gz console=ttyS0,115200 nokaslr mitigations=off clearcpuid=amx_tile,fsrm no5lvl panic=-1 random.trust_cpu=on
C
genisoimage -quiet -o "$work/guest.iso" -b isolinux.bin -c boot.cat -no-emul-boot \
  -boot-load-size 4 -boot-info-table -J -R "$work/iso"
rm -rf "$work/root"

lib=$bochs_dir/usr/lib/x86_64-linux-gnu
cat >"$work/bochsrc" <<C
config_interface: textconfig
display_library: term
cpu: model=sapphire_rapids, count=1, ips=50000000, reset_on_triple_fault=0, ignore_bad_msrs=1
memory: guest=$mem, host=$mem
romimage: file=$bochs_dir/usr/share/bochs/BIOS-bochs-latest
vgaromimage: file=$bochs_dir/usr/share/bochs/VGABIOS-lgpl-latest
ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14
ata0-master: type=cdrom, path="$work/guest.iso", status=inserted
boot: cdrom
clock: sync=none
log: $work/bochs.log
panic: action=fatal
error: action=ignore
info: action=ignore
debug: action=ignore
com1: enabled=1, mode=file, dev=$work/com1
com2: enabled=1, mode=file, dev=$work/com2
com3: enabled=1, mode=file, dev=$work/com3
com4: enabled=1, mode=file, dev=$work/com4
speaker: enabled=0
C
emulator_status=0
# Bochs ends with status 1 on the guest's power-off; com4 tells whether the program ended.
LTDL_LIBRARY_PATH=$lib/bochs/plugins BXSHARE=$bochs_dir/usr/share/bochs TERM=xterm \
  timeout -k 5 -s KILL "$limit" "$lib/ld-linux-x86-64.so.2" --library-path "$lib" \
  "$bochs_dir/usr/bin/bochs-bin" -q -f "$work/bochsrc" </dev/null >"$work/screen" 2>&1 || emulator_status=$?

[[ ! -e $work/com2 ]] || cat "$work/com2"
[[ ! -e $work/com3 ]] || cat "$work/com3" >&2
[[ ! $keep_log ]] || cp "$work/com1" "$keep_log" || true
status=$(sed -n 's/^exit \([0-9]*\).*/\1/p' "$work/com4" 2>/dev/null) || true
[[ ! $status ]] || exit "$status"
[[ $emulator_status != 137 ]] || { say "not done after $limit s of --timeout"; exit $timed_out; }
say "the guest did not finish (emulator status $emulator_status); kernel log:"
tail -n 30 "$work/com1" >&2 || true
exit $bed_failed
