#!/bin/sh
# Runs as root in the emulated machine. Each line of output begins with "ok" or "FAILED" and names a check.
set -u
share=$1
export HAVRE_DATA_ROOT=/scratch/data HAVRE_EXEC_ROOT=/scratch/exec HAVRE_AUTOSTARTED=1
export DOCKER_HOST=unix:///scratch/exec/havre.sock

havre() { timeout 60 "$share/havre" "$@" 2>&1; }
run() { havre run --rm --network none "$@"; }
start() { havre run -d --network none "$@" >/dev/null; }

check() {
    if [ "$2" = "$3" ]; then echo "ok $1"; else echo "FAILED $1: wanted [$2], got [$3]"; fi
}
contains() {
    case $3 in *"$2"*) echo "ok $1" ;; *) echo "FAILED $1: wanted [$2] in [$3]" ;; esac
}

daemon() {
    : >/scratch/out
    "$share/havre" daemon >/scratch/out 2>>/scratch/log &
    daemon=$!
    turns=0
    until grep -q ready /scratch/out; do
        turns=$((turns + 1))
        [ $turns -lt 300 ] || { echo "FAILED the daemon starts: $(tail -n 5 /scratch/log)"; exit 0; }
        sleep 0.1
    done
}

daemon
contains "the image is loaded" "Loaded image" "$(havre load -i "$share/busybox.tar")"
contains "the engine sees cgroup v2" "2" "$(havre info --format '{{.CgroupVersion}}')"

start --name limits -m 64m --memory-swap 64m --pids-limit 50 --cpus 0.5 --cpu-shares 512 --cpuset-cpus 0 \
    busybox sleep 1000
group() { havre exec limits cat "/sys/fs/cgroup/$1"; }
check "memory.max is the limit" 67108864 "$(group memory.max)"
check "memory.swap.max is the limit" 0 "$(group memory.swap.max)"
check "pids.max is the limit" 50 "$(group pids.max)"
check "cpu.max is half a processor" "50000 100000" "$(group cpu.max)"
check "cpuset.cpus is the list" 0 "$(group cpuset.cpus)"
check "the group is the root of its namespace" "0::/" "$(havre exec limits cat /proc/self/cgroup)"
check "the group cannot be written" 1 "$(havre exec limits sh -c 'mkdir /sys/fs/cgroup/x 2>/dev/null; echo $?')"

memory="dd if=/dev/zero of=/dev/null bs=100M count=1"
havre run --name oom --network none -m 32m --memory-swap 32m busybox sh -c "exec $memory" >/dev/null
check "a process over its memory limit is killed" 137 "$?"
check "the kill is reported" "true 137" "$(havre inspect -f '{{.State.OOMKilled}} {{.State.ExitCode}}' oom)"
start --name child -m 32m --memory-swap 32m busybox sh -c "$memory; echo child \$?; exec sleep 1000"
turns=0
until havre logs child | grep -q 'child 137' || [ $turns -gt 50 ]; do turns=$((turns + 1)); sleep 0.2; done
check "r24 a killed child is reported while the first process lives" "true true" \
    "$(havre inspect -f '{{.State.Running}} {{.State.OOMKilled}}' child)"
check "a process within its limit lives" 0 "$(run -m 256m busybox sh -c "$memory 2>/dev/null; echo \$?")"

denied="Operation not permitted"
modprobe loop
for number in "c 1 1" "c 10 237" "b 254 0"; do
    contains "r19 device $number is denied" "$denied" "$(run busybox sh -c "mknod /tmp/n $number && exec 3</tmp/n")"
done
check "a device that was asked for can be read" 0 \
    "$(run --device /dev/loop-control:/dev/mine:r busybox sh -c 'exec 3</dev/mine; echo $?')"
contains "and not written" "$denied" "$(run --device /dev/loop-control:/dev/mine:r busybox sh -c 'exec 3>/dev/mine')"
check "a rule opens a device" 0 \
    "$(run --device-cgroup-rule 'c 10:237 r' busybox sh -c 'mknod /tmp/n c 10 237 && exec 3</tmp/n; echo $?')"
check "the usual devices are open" 0 "$(run busybox sh -c 'head -c 1 /dev/urandom >/dev/null; echo $?')"
check "a privileged container may open any" 0 \
    "$(run --privileged busybox sh -c 'mknod /tmp/n c 10 237 && exec 3</tmp/n; echo $?')"

id=$(havre inspect -f '{{.Id}}' limits)
frozen() { sed -n 's/^frozen //p' "$(find /sys/fs/cgroup -type d -name "$id")/cgroup.events"; }
havre pause limits >/dev/null
check "a paused container is frozen" "paused 1" "$(havre inspect -f '{{.State.Status}}' limits) $(frozen)"
contains "and takes no exec" "is paused" "$(havre exec limits true)"
havre unpause limits >/dev/null
check "an unpaused container runs" "running 0" "$(havre inspect -f '{{.State.Status}}' limits) $(frozen)"
check "and takes an exec" here "$(havre exec limits echo here)"

contains "an AppArmor profile that is not loaded is an error" "not-loaded" \
    "$(run --security-opt apparmor=not-loaded busybox true)"
run --security-opt apparmor=not-loaded busybox true >/dev/null
check "with the code of a failed start" 125 "$?"
cat >/scratch/profile <<'PROFILE'
profile havre-vm-test flags=(attach_disconnected,mediate_deleted) {
  file,
  capability,
  network,
  signal,
  deny /tmp/forbidden w,
}
PROFILE
parser=$(apparmor_parser --replace --skip-cache /scratch/profile 2>&1)
check "the profile is loaded" "" "$parser"
label="cat /proc/self/attr/apparmor/current 2>/dev/null || cat /proc/self/attr/current"
confined="--security-opt apparmor=havre-vm-test"
check "a loaded profile confines" "havre-vm-test (enforce)" "$(run $confined busybox sh -c "$label")"
contains "and is enforced" "denied" "$(run $confined busybox touch /tmp/forbidden)"
start --name confined $confined busybox sleep 1000
check "an exec is confined too" "havre-vm-test (enforce)" "$(havre exec confined sh -c "$label")"

start --name ends busybox sh -c 'until [ -e /tmp/end ]; do sleep 0.1; done; echo last; exit 42'
ends=$(havre inspect -f '{{.State.Pid}}' ends)
lives=$(havre inspect -f '{{.State.Pid}}' limits)
kill -9 "$daemon"
wait "$daemon" 2>/dev/null
: >"/proc/$ends/root/tmp/end"
turns=0
while [ -e "/proc/$ends/ns" ] && [ $turns -lt 100 ]; do turns=$((turns + 1)); sleep 0.1; done
daemon
check "a container outlives the daemon" "running $lives" \
    "$(havre inspect -f '{{.State.Status}} {{.State.Pid}}' limits)"
check "its limits too" 67108864 "$(group memory.max)"
check "an exit without a daemon is known" "exited 42" \
    "$(havre inspect -f '{{.State.Status}} {{.State.ExitCode}}' ends)"
check "and its last words" last "$(havre logs ends)"

havre rm -f limits oom child confined ends >/dev/null
check "nothing is left of the containers" "" "$(havre ps -aq)"
check "no control group is left" "" \
    "$(find /sys/fs/cgroup -type d | grep -E '/[0-9a-f]{64}$')"
echo "ok the end is reached"
