# Runs one command in a world that looks as the command before it left it: see sandbox_server/workspace.py.
#   sh -c KEEP sh (keep|leave) FOLDER COUNT [NAME=VALUE ...] COMMAND [ARGUMENT ...]
# The server puts what the last command left at .selfalign/world and collects the new one from there.
mode=$1 folder=$2 count=$3
shift 3
own=/work/.selfalign
path=$PATH
PATH=/usr/sbin:/usr/bin:/sbin:/bin
# A shell tells on its own stderr which signal ended a command; that is not the command's stderr.
exec 3>&2 2>/dev/null
# `kill 0` in the command is for us too. A handler, other than an ignored signal, is not passed on to the command.
trap : HUP INT QUIT TERM PIPE ALRM USR1 USR2

fail() {
    rm -rf $own # the archive itself takes room, and is not to be collected
    mkdir $own
    printf '%s' "$1" >$own/why
    exit "${status:-125}"
}

if [ -e $own/world ]; then
    problem=$(tar -xpPf $own/world -I gzip 2>&1) || fail "they could not be laid out: $problem"
    if [ -s $own/modes ]; then
        # The deepest first: past a folder without its x-bit there is no way.
        sort -z -r -n $own/modes | xargs -0 -r -n 1 /bin/sh -c 'entry=${1#* }; chmod -- "${entry%% *}" "${entry#* }"' sh
    fi
    rm -rf $own
fi

(
    cd /work && cd -- "$folder" || exit 1
    unset OLDPWD
    PATH=$path
    while [ "$count" -gt 0 ]; do
        export "$1"
        shift
        count=$((count - 1))
    done
    exec "$@"
) 2>&3 3>&-
status=$?

[ "$mode" = keep ] || exit $status
# What still runs would change files while they are read, and does not survive the world anyway.
while kill -KILL -1; do :; done
cd /
chmod u+rwx /work
rm -rf $own
# What its owner may not read is packed as if he might, with its mode beside it.
modes=$(mktemp /tmp/modes.XXXXXX) || fail "no room for them"
{
    find /work/ /tmp/ -mindepth 1 -type d ! -perm -u=rwx -printf '%d %m %p\0' -exec chmod u+rwx -- {} \;
    find /work/ /tmp/ -mindepth 1 -type f ! -perm -u=r -printf '%d %m %p\0' -exec chmod u+r -- {} +
} >"$modes" || fail "no room for them"
mkdir $own && mv "$modes" $own/modes || fail "no room for them"
problem=$({
    find /work/ /tmp/ -mindepth 1 -maxdepth 1 ! -path $own -print0
    printf '%s\0' $own/modes
} | tar -cPSf $own/part -I 'gzip -1' --format=posix --pax-option=delete=atime,delete=ctime --null -T - 2>&1) ||
    fail "they could not be packed: $problem"
mv $own/part $own/world
exit $status
