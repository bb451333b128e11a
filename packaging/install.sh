#!/bin/sh
# Installs Weir from the folder that this script is in, without a network.
#
#   sh install.sh                 install or upgrade, as root; then starts the service
#   sh install.sh --no-start      the same, without enabling or starting anything
#   sh install.sh --remove        stop and remove; configuration and data stay
#   sh install.sh --root DIR      into DIR, as an image builder would; no users, no services
#
# What it puts where:
#   /usr/local/bin/weir                     the program, node and client
#   /etc/weir/weir.toml                     the configuration; an existing one is left alone, and
#                                           the new example goes beside it as weir.toml.new
#   /etc/systemd/system/weir.service        where there is systemd
#   /etc/sysusers.d/weir.conf               the user that the service runs as
#   /etc/sysctl.d/60-weir.conf              larger UDP buffers
#   /usr/local/share/bash-completion/…      completions
set -eu
# What is installed is for everybody to read, whatever the installer's habit.
umask 022

root=
start=yes
action=install

usage() {
    sed -n '2,/^set -eu/{/^set -eu/d;s/^# \{0,1\}//;p;}' "$0"
}

fail() {
    echo "install.sh: $1" >&2
    exit 1
}

while [ $# -gt 0 ]; do
    case $1 in
    --root)
        [ $# -ge 2 ] || fail "--root needs a folder"
        root=${2%/}
        start=no
        shift
        ;;
    --no-start) start=no ;;
    --remove) action=remove ;;
    -h | --help)
        usage
        exit 0
        ;;
    *) fail "unknown option $1; see --help" ;;
    esac
    shift
done

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
bin=$root/usr/local/bin/weir
config=$root/etc/weir/weir.toml
unit=$root/etc/systemd/system/weir.service
sysusers=$root/etc/sysusers.d/weir.conf
sysctl=$root/etc/sysctl.d/60-weir.conf
completions=$root/usr/local/share/bash-completion/completions/weir

live() { [ -z "$root" ]; }
have() { command -v "$1" >/dev/null 2>&1; }
has_systemd() { live && [ -d /run/systemd/system ] && have systemctl; }

# Copies a file under another name first, so that whoever looks sees the old one or the new one,
# and a program that runs keeps its own.
put() { # FROM TO MODE
    mkdir -p "$(dirname -- "$2")"
    cp -- "$1" "$2.tmp.$$"
    chmod "$3" "$2.tmp.$$"
    mv -f -- "$2.tmp.$$" "$2"
}

check_files() {
    for file in weir weir.service weir.sysusers weir.sysctl weir.toml; do
        [ -f "$here/$file" ] || fail "$file is missing beside this script: unpack the whole archive"
    done
    if [ -f "$here/SHA256SUMS" ] && have sha256sum; then
        (cd "$here" && sha256sum --check --quiet SHA256SUMS 2>/dev/null ||
            sha256sum -c SHA256SUMS >/dev/null) ||
            fail "a file does not match SHA256SUMS: the archive is damaged"
    fi
    # The program must run here before it replaces one that does.
    "$here/weir" --version >/dev/null 2>&1 ||
        fail "$here/weir does not run on this machine (another processor?)"
}

make_user() {
    live || return 0
    if have systemd-sysusers; then
        systemd-sysusers "$sysusers"
    elif id weir >/dev/null 2>&1; then
        :
    elif have useradd; then
        useradd --system --home-dir /var/lib/weir --shell /usr/sbin/nologin weir
    elif have adduser; then
        # BusyBox
        addgroup -S weir 2>/dev/null || :
        adduser -S -D -H -h /var/lib/weir -s /sbin/nologin -G weir weir
    else
        fail "cannot add the user weir: add a system user of that name and try again"
    fi
}

put_config() {
    if [ ! -e "$config" ]; then
        put "$here/weir.toml" "$config" 644
    elif ! cmp -s "$here/weir.toml" "$config"; then
        put "$here/weir.toml" "$config.new" 644
        echo "kept $config; the example of this version is $config.new"
    fi
}

# A configuration that the new program refuses is found now, not when the service starts.
check_config() {
    "$bin" node --config "$config" --print-config >/dev/null ||
        fail "the program was installed but refuses $config; nothing was restarted"
}

install_all() {
    check_files
    if live && [ "$(id -u)" -ne 0 ]; then
        fail "run it as root, or with --root DIR"
    fi
    put "$here/weir" "$bin" 755
    put_config
    put "$here/weir.service" "$unit" 644
    put "$here/weir.sysusers" "$sysusers" 644
    put "$here/weir.sysctl" "$sysctl" 644
    mkdir -p "$(dirname -- "$completions")"
    "$bin" completions bash >"$completions"
    check_config
    make_user
    if live && have sysctl; then
        sysctl -q -p "$sysctl" || echo "cannot raise the UDP buffers; see $sysctl" >&2
    fi
    echo "installed $("$bin" --version) as $bin"
    if has_systemd; then
        systemctl daemon-reload
        if [ "$start" = yes ]; then
            systemctl enable --quiet weir.service
            systemctl restart weir.service
            echo "the service weir runs: systemctl status weir, journalctl -u weir, weir status"
        fi
    elif live; then
        echo "there is no systemd here; run as the user weir: weir node --config $config"
    fi
}

remove_all() {
    if has_systemd; then
        systemctl disable --now --quiet weir.service 2>/dev/null || :
    fi
    rm -f -- "$bin" "$unit" "$sysusers" "$sysctl" "$completions" "$config.new"
    if has_systemd; then
        systemctl daemon-reload
    fi
    echo "removed; the configuration ($config) and data (/var/lib/weir) are still there"
}

case $action in
install) install_all ;;
remove) remove_all ;;
esac
